// A sorted set of records in a directory: tables of geometrically growing size, merged as records are added
// (P. O'Neil, E. Cheng, D. Gawlick, E. O'Neil: The Log-Structured Merge-Tree, 1996).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/unique_fd.h"
#include "formats/table/table.h"

namespace formats {

/// What becomes of records when tables are merged.
struct TableMerge {
  bool newest_only = false;                      ///< of the records of one key, the one added last
  std::function<bool(base::Bytes record)> keep;  ///< which are; empty: all
  /// Of what the merged tables say beside their records, joined; empty: as it is.
  std::function<base::Buffer(base::Bytes extras)> tidy_extra;
};

/// The directory holds one file for each table, named by its SHA-256 in hex, and `list`: the names of those
/// that count, oldest first. It can be lost at any time: a table that is damaged or gone is as if it had
/// never been added, and nothing is synced.
///
/// One thread at a time; one process at a time adds, any number read. Errors: corrupt for a damaged block,
/// local.
class TableSet {
 public:
  /// Without a directory the tables are in memory.
  TableSet(const TableShape& shape, std::optional<base::UniqueFd> directory);
  TableSet(const TableSet&) = delete;
  TableSet& operator=(const TableSet&) = delete;

  /// Takes note of what other processes added. Tables that are gone or no tables are left out.
  void load();

  /// Adds `records`, back to back in the order of their keys, and merges what has grown to like size.
  void add(base::Bytes records, base::Bytes extra, const TableMerge& merge);

  /// Calls `visit` for each record of that key, the newest first.
  template <typename Visit>
  void find(base::Bytes key, Visit&& visit) {
    for (auto table = tables_.rbegin(); table != tables_.rend(); ++table) table->table->find(key, visit);
  }

  /// Calls `visit` for the records from `key` on, in the order of keys, until it returns false.
  void visit_from(base::Bytes key, const std::function<bool(base::Bytes record)>& visit);

  /// Records in all tables; those that a newer one stands for are counted too.
  [[nodiscard]] std::uint64_t count() const noexcept;

  /// What each table says beside its records.
  [[nodiscard]] std::vector<base::Bytes> extras() const;

  static constexpr const char* kList = "list";
  /// The names it holds; what is no name is passed over.
  [[nodiscard]] static std::vector<std::string> read_list(int directory);

 private:
  struct Entry {
    std::string name;
    std::shared_ptr<Table> table;  // shared: a list that cannot be loaded leaves the one before
  };
  struct Source;
  static void merge(std::vector<Source> sources, std::size_t key_size,
                    const std::function<bool(base::Bytes)>& visit);
  [[nodiscard]] std::shared_ptr<Table> open(const std::string& name);
  void load(const std::vector<std::string>& names);
  void write(Entry& entry, const std::function<void(const base::ByteSink&)>& fill);
  void write_list();

  TableShape shape_;
  std::optional<base::UniqueFd> directory_;
  TableBlocks blocks_;
  std::vector<Entry> tables_;  ///< oldest first
};

}  // namespace formats
