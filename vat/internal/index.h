// Where blobs lie: the local, losable index of one vat. docs/design.md, "Index"
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/object_id.h"
#include "formats/database/database.h"
#include "formats/pack/pack.h"
#include "formats/table/table_set.h"

namespace vat::internal {

/// A pack file as it was when it was indexed.
struct PackRecord {
  std::int64_t number = 0;  ///< key in this index
  std::string name;         ///< file name in primary/pack
  std::uint64_t size = 0;
  std::int64_t mtime = 0;  ///< nanoseconds
};

/// One copy of a blob in a pack.
struct Place {
  std::int64_t pack = 0;
  formats::GroupPlace group{};
  std::uint32_t position = 0;  ///< of the blob in the group
  std::uint32_t size = 0;      ///< content bytes
  formats::BlobKind kind = formats::BlobKind::data;
  bool damaged = false;  ///< a read found it bad
};

/// "These bytes are the content of that id", as a recipe in the vat says.
struct Claim {
  base::ObjectId content;
  base::ObjectId recipe;
  std::uint64_t size = 0;
  bool proven = false;  ///< the whole content was hashed here once
};

/// A hand-filled file that was hashed from end to end.
struct LooseRecord {
  std::string suffix;
  std::uint64_t file_size = 0;
  std::int64_t state = 0;  ///< of the file; 0: forgotten. See Vat::Impl::state_of()
  std::uint64_t content_size = 0;
  bool good = false;
};

struct IndexedBlob {
  base::ObjectId id;
  Place place;
};

/// What was learned of one pack.
struct IndexedPack {
  PackRecord record;
  std::vector<IndexedBlob> blobs;
  std::vector<Claim> claims;
};

/// What a table that another vat's index published says of its packs; claims are not in it. Throws corrupt.
[[nodiscard]] std::vector<IndexedPack> read_index_table(base::ObjectFormat format, base::Bytes file);

/// Where an index lies. Both can be lost at any time.
struct IndexLocation {
  std::string database;  ///< a file; empty: memory
  std::string tables;    ///< a directory; empty: memory

  /// Removes the index, as far as that is possible; other processes that use it go on with what they hold.
  void remove() const noexcept;
  void remove_tables() const noexcept;
};

/// Places are rows of tables (docs/formats/table.md), which whoever serves the vat's files publishes; packs,
/// what is damaged and claims are in a SQLite database. A place counts only while its pack's number is in the
/// database, and a pack only while a table names it, so losing either means that packs are read again.
///
/// Thread-safety: any thread. Errors: as Database; corrupt means it has to be rebuilt.
class Index {
 public:
  /// Opens or creates; a database of another version or format is emptied. Throws local if it cannot be
  /// written.
  Index(const IndexLocation& location, base::ObjectFormat format);

  /// A pack whose rows are lost has size 0.
  [[nodiscard]] std::vector<PackRecord> packs() const;
  enum class Damage : std::uint8_t {
    forget,  ///< the file was just written
    keep,    ///< what was found bad in a file of this size and time still is
    same     ///< its rows were lost, and if size and time are the same they are all that was
  };
  /// Whether it was the tables that failed, and the database is sound.
  [[nodiscard]] static bool is_of_tables(const base::Error& error);

  /// Replaces all that is known of the packs of those names.
  void put_packs(const std::vector<IndexedPack>& packs, Damage damage);
  void forget_pack(const std::string& name);
  [[nodiscard]] std::optional<std::string> find_pack_name(std::int64_t number) const;

  /// Look-ups from here on, until the next change of the index or end_reading(), are of one moment and cost
  /// no locks of the file; unless that would keep others from writing.
  void begin_reading();
  void end_reading();

  /// All known copies, good ones first.
  [[nodiscard]] std::vector<Place> find(const base::ObjectId& id) const;
  /// The epoch is random, and another one whenever a copy was lost or found bad: what was stored in an epoch
  /// still is there while that lasts, unless the whole vat was put back to what it was earlier, by a backup
  /// or a snapshot. That shows by a milestone that is not there: a random name that was added when all was
  /// stored.
  struct State {
    std::string epoch;
    std::set<std::string> milestones;  ///< the last 1024 of this epoch
  };
  [[nodiscard]] State state() const;
  /// Adds one to `epoch` and returns it; empty if that is over.
  [[nodiscard]] std::string add_milestone(const std::string& epoch);

  void mark_damaged(const base::ObjectId& id, const Place& place);
  /// The whole pack was read and found good.
  void mark_sound(const std::string& pack);
  [[nodiscard]] std::vector<Claim> find_claims(const base::ObjectId& content) const;
  void put_claims(const std::vector<Claim>& claims);
  /// Throws corrupt if one of them is not as it was written: one whose key has changed is not found.
  void check_claims() const;

  [[nodiscard]] std::optional<LooseRecord> find_loose(const base::ObjectId& id,
                                                      const std::string& suffix) const;
  void put_loose(const base::ObjectId& id, const LooseRecord& record);

  /// Ids in the order of their bytes after `after` (nullptr: from the first), at most `limit`, each once.
  [[nodiscard]] std::vector<IndexedBlob> list_after(const base::ObjectId* after, std::size_t limit) const;
  [[nodiscard]] std::vector<Claim> list_claims_after(const base::ObjectId* after, std::size_t limit) const;

 private:
  /// Id, pack, offset, position.
  using DamagedPlace = std::tuple<base::ObjectId, std::int64_t, std::uint64_t, std::uint32_t>;

  void follow_locked() const;
  void load_locked() const;
  [[nodiscard]] std::optional<Place> read_place(base::Bytes row) const;
  std::int64_t renumber_locked(const PackRecord& pack, Damage damage);
  void forget_pack_locked(std::int64_t number);
  [[nodiscard]] std::int64_t number_locked(const std::string& name) const;
  void renew_state_locked();
  void end_reading_locked();

  base::ObjectFormat format_;
  mutable std::mutex mutex_;  ///< guards everything below
  mutable formats::Database database_;
  mutable formats::TableSet tables_;
  mutable std::unique_ptr<formats::Statement> version_;
  mutable std::int64_t seen_ = 0;  ///< the version of the database that what follows is of
  mutable std::map<std::int64_t, PackRecord> packs_;
  mutable std::set<std::int64_t> listed_;  ///< packs that tables name
  mutable std::set<DamagedPlace> damaged_;
  bool reading_ = false;
  bool others_can_write_ = false;  ///< while somebody reads; not where the file system has no shared memory
};

}  // namespace vat::internal
