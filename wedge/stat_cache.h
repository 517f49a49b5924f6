// What was learned of files by reading them, kept for as long as nothing about them changes. docs/design.md,
// "Stat cache"
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "formats/base/file_systems.h"
#include "formats/base/object_id.h"
#include "formats/database/database.h"
#include "formats/table/table_set.h"

namespace wedge {

/// What tells one state of a file or directory from another without reading it. Times in nanoseconds.
struct FileState {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t mtime = 0, ctime = 0;
  bool is_file = true;  ///< not a directory
  friend bool operator==(const FileState&, const FileState&) = default;
};
[[nodiscard]] FileState state_of(const struct stat& info) noexcept;

/// What reading it told.
struct KnownFile {
  std::optional<base::ObjectId> blob;    ///< nullopt for directories
  std::optional<base::ObjectId> recipe;  ///< of the content, if it was stored in chunks …
  int exponent = 0;                      ///< … cut by this profile; 0 if it was never cut
  bool sparse = false;
  std::map<std::string, std::string> xattrs;  ///< user.*, access control lists, security.capability
  std::string
      stored;  ///< the vat::Vat::mark_state() of a vat that was left with the content in it; may be empty
};

/// Losable tables in the user's cache directory, for all trees of this machine; what few files have is in a
/// database beside them.
///
/// Rows are found by file system and inode and hold as long as size, mtime and ctime are the same. Only files
/// whose file system vouches for that are remembered and found (base::FileSystems), and of these only files
/// whose ctime is finer than a second, as a clock that stamps files is, unless the user trusts it. A file
/// that changed so shortly before it was read that a change after that would leave the same ctime is not
/// remembered (git calls this racy).
///
///     const base::FileAt where{directory, "name"};
///     if (const auto known = cache.find(state_of(info), where)) use(*known->blob);
///     else { const auto since = StatCache::now(); …; cache.put(state_of(info), where, found, since); }
///
/// Thread-safety: any thread. Nothing is thrown: a cache that cannot be used knows nothing.
class StatCache {
 public:
  /// `directory` is made if it is not there; empty: knows nothing and keeps nothing. `trusted`: see
  /// base::FileSystems.
  StatCache(const std::string& directory, base::ObjectFormat format, std::vector<std::string> trusted = {});
  ~StatCache();
  StatCache(const StatCache&) = delete;
  StatCache& operator=(const StatCache&) = delete;

  [[nodiscard]] std::optional<KnownFile> find(const FileState& state, const base::FileAt& where);

  /// The clock that stamps files; read it before reading a file.
  [[nodiscard]] static std::int64_t now() noexcept;
  /// `read_since`: now() from before the file was read, or kUnshared.
  void put(const FileState& state, const base::FileAt& where, const KnownFile& known,
           std::int64_t read_since);
  /// Nobody else can change the file until now() is later than its times.
  static constexpr std::int64_t kUnshared = INT64_MAX;

  /// Runs `change`, which leaves the file of `fd` as it is but for its ctime (another link, one less), and
  /// keeps what is known of it.
  void keep_across(int fd, const std::function<void()>& change);

  /// All content that was put since the last call is stored, durably, in the vat whose mark_state() `mark`
  /// calls, if anything was put.
  void set_stored(const std::function<std::string()>& mark);
  void flush();

  /// Files that find() was asked for in vain because nothing vouches for them: they are read each time.
  struct Unvouched {
    base::FileSystem system;
    std::uint64_t files = 0, size = 0;  ///< bytes
  };
  [[nodiscard]] std::vector<Unvouched> unvouched() const;

  /// For the `turn`-th walk of a tree, 0, 1, 2 …: one more each time it is called with this root.
  [[nodiscard]] std::uint64_t next_turn(const FileState& root);

 private:
  /// A row of the tables, and what does not fit into one.
  struct Row {
    std::array<std::byte, 16 + 32 + 2 + 2 * 32> bytes{};  ///< the first record_size of them
    std::map<std::string, std::string> xattrs;
  };
  struct Hash {
    std::size_t operator()(const std::pair<std::uint64_t, std::uint64_t>& key) const noexcept {
      return static_cast<std::size_t>((key.first * 31 + key.second) * 0x9E3779B97F4A7C15);
    }
  };

  /// Of file system and inode.
  using Key = std::pair<std::uint64_t, std::uint64_t>;
  [[nodiscard]] std::optional<KnownFile> find_known(const Key& key, const FileState& state);
  [[nodiscard]] std::optional<Key> find_key(const FileState& state, const base::FileAt& where);
  [[nodiscard]] Row encode(const Key& key, const FileState& state, const KnownFile& known) const;
  [[nodiscard]] std::optional<KnownFile> decode(base::Bytes row, const FileState& state) const;
  [[nodiscard]] std::optional<std::map<std::string, std::string>> find_xattrs(const Key& key,
                                                                              const FileState& state);
  template <typename Work>
  void attempt(Work&& work) noexcept;
  void open() noexcept;
  void close() noexcept;
  void remove() const noexcept;
  void flush_locked();
  void end_reading();

  base::ObjectFormat format_;
  std::string directory_;     ///< of the tables
  mutable std::mutex mutex_;  ///< guards what follows
  base::FileSystems systems_;
  std::map<const base::FileSystem*, Unvouched> unvouched_;
  std::unique_ptr<formats::Database> database_;  ///< nullptr: nothing is known or kept
  std::unique_ptr<formats::TableSet> tables_;
  std::unique_ptr<formats::Statement> xattrs_;
  std::int64_t run_ = 0;
  bool put_in_run_ = false;
  bool reading_ = false;  ///< inside a transaction, which saves locking the file for every look-up
  std::unordered_map<std::int64_t, std::string> stored_;  ///< by run
  std::unordered_map<std::pair<std::uint64_t, std::uint64_t>, Row, Hash> pending_;
};

/// Which files a spot check reads although they are known: a share of them, another each turn, so that after
/// ceil(100 / percent) turns every one was read.
class SpotCheck {
 public:
  SpotCheck() = default;  ///< none
  /// 1 ≤ percent ≤ 100.
  SpotCheck(unsigned percent, std::uint64_t turn)
      : cycle_((100 + percent - 1) / percent), turn_(turn % cycle_) {}
  [[nodiscard]] bool is_due(const FileState& state) const noexcept;

 private:
  std::uint64_t cycle_ = 0, turn_ = 0;
};

}  // namespace wedge
