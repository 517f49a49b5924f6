// Tables: immutable files of sorted records of one size, made to be searched block by block, on disk or by
// ranges of a file elsewhere. docs/formats/table.md
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "formats/base/bytes.h"

namespace formats {

inline constexpr std::size_t kTableBlock = 4096;  ///< bytes; the last 8 guard the others against rot
inline constexpr std::size_t kMaxTableRecord = 1024;

/// What the records of a table are. A record begins with its key; both sizes in bytes.
struct TableShape {
  std::array<char, 8> kind;  ///< says what the records mean
  std::size_t key_size;
  std::size_t record_size;  ///< key_size ≤ record_size ≤ kMaxTableRecord
};

/// Writes one table as a stream of bytes. One thread at a time.
class TableWriter {
 public:
  /// At most `expected` records will come.
  TableWriter(const TableShape& shape, std::uint64_t expected, base::ByteSink sink);
  /// Keys ascend by their bytes; the same key may come again.
  void add(base::Bytes record);
  /// `extra`: what the reader is to be told beside the records.
  void finish(base::Bytes extra);
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

 private:
  void end_block();
  void write_section(base::Bytes items, std::size_t item_size);

  TableShape shape_;
  base::ByteSink sink_;
  base::Buffer block_;
  base::Buffer fences_;  ///< the first key of each block
  base::Buffer filter_;
  std::uint64_t block_count_ = 0, count_ = 0;
};

/// Blocks that were read lately, of several tables. One thread at a time.
class TableBlocks {
 public:
  using Block = std::array<std::byte, kTableBlock>;
  /// Memory: kSlots blocks, as they come to be used.
  static constexpr std::size_t kSlots = 4096;
  struct Slot {
    std::uint64_t table = 0, number = 0;  ///< table 0: empty
    std::unique_ptr<Block> block;
  };
  [[nodiscard]] Slot& slot(std::uint64_t table, std::uint64_t number) noexcept {
    return slots_[(table * 2654435761U + number) % kSlots];
  }
  [[nodiscard]] std::uint64_t next_table() noexcept { return ++tables_; }

 private:
  std::vector<Slot> slots_ = std::vector<Slot>(kSlots);
  std::uint64_t tables_ = 0;
};

/// Reads a table. Every block is checked when it is read; a damaged one is an error, never an answer. Memory:
/// a key for each block of records, and once something was looked up ten bits for each record. One thread at
/// a time.
class Table {
 public:
  /// `blocks` outlives it. Throws corrupt if it is no sound table of that shape.
  Table(const TableShape& shape, base::ReadAt read, std::uint64_t size, TableBlocks& blocks);
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] base::Bytes extra() const noexcept { return extra_; }

  /// Calls `visit` for each record of that key. The view dies when the call returns.
  template <typename Visit>
  void find(base::Bytes key, Visit&& visit) {
    if (!may_hold(key)) return;
    for (auto at = lower_bound(key); at < count_ && same_key(record(at), key); ++at) visit(record(at));
  }

  /// Position of the first record whose key is not before `key`.
  [[nodiscard]] std::uint64_t lower_bound(base::Bytes key);
  /// The view lives until the next call.
  [[nodiscard]] base::Bytes record(std::uint64_t position);

 private:
  void make_fan();
  [[nodiscard]] std::uint64_t fan_of(const std::byte* key) const noexcept;
  [[nodiscard]] bool may_hold(base::Bytes key);
  [[nodiscard]] bool same_key(base::Bytes record, base::Bytes key) const noexcept;
  [[nodiscard]] const std::byte* block(std::uint64_t number);
  void read_block(std::uint64_t number, TableBlocks::Block& block) const;
  [[nodiscard]] base::Buffer read_section(std::uint64_t first, std::uint64_t items,
                                          std::size_t item_size) const;

  TableShape shape_;
  base::ReadAt read_;
  TableBlocks& blocks_;
  std::uint64_t number_;  ///< of this table in blocks_
  std::uint64_t count_ = 0, record_blocks_ = 0, filter_cells_ = 0, total_blocks_ = 0;
  std::size_t per_block_ = 0;
  base::Buffer fences_, extra_;
  base::Buffer filter_;  ///< empty until the first look-up
  int fan_bits_ = 0;
  std::vector<std::uint64_t> fan_;  ///< how many fences begin with less than that number, in their first bits
};

}  // namespace formats
