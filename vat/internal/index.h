// Where blobs lie: the local, losable index of one vat. docs/design.md, "Index"
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/database/database.h"
#include "formats/pack/pack.h"

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
  std::int64_t mtime = 0;  ///< nanoseconds
  std::uint64_t content_size = 0;
  bool good = false;
};

struct IndexedBlob {
  base::ObjectId id;
  Place place;
};

/// A SQLite database. Every row carries a checksum over what it says and the name of the pack it speaks of,
/// so a row that rotted, or that belongs to another pack, is as if absent.
///
/// Thread-safety: any thread. Errors: as Database; corrupt means it has to be rebuilt.
class Index {
 public:
  /// Opens or creates; a database of another version or format is emptied. Throws local if it cannot be
  /// written.
  Index(const std::string& path, base::ObjectFormat format);

  [[nodiscard]] std::vector<PackRecord> packs() const;
  enum class Damage : std::uint8_t {
    forget,  ///< the file was just written
    keep     ///< what was found bad in a file of this size and time still is
  };
  /// Replaces all that is known of the pack of that name.
  void put_pack(const PackRecord& pack, const std::vector<IndexedBlob>& blobs,
                const std::vector<Claim>& claims, Damage damage);
  void forget_pack(const std::string& name);
  [[nodiscard]] std::optional<std::string> find_pack_name(std::int64_t number) const;

  /// Look-ups from here on, until the next change of the index or end_reading(), are of one moment and cost
  /// no locks of the file; unless that would keep others from writing.
  void begin_reading();
  void end_reading();

  /// All known copies, good ones first.
  [[nodiscard]] std::vector<Place> find(const base::ObjectId& id) const;
  /// Random; another one whenever a copy was lost or found bad. What was in the vat under one state still is.
  [[nodiscard]] std::string state() const;

  void mark_damaged(const base::ObjectId& id, const Place& place);
  /// The whole pack was read and found good.
  void mark_sound(const std::string& pack);
  [[nodiscard]] std::vector<Claim> find_claims(const base::ObjectId& content) const;
  void put_claims(const std::vector<Claim>& claims);

  [[nodiscard]] std::optional<LooseRecord> find_loose(const base::ObjectId& id,
                                                      const std::string& suffix) const;
  void put_loose(const base::ObjectId& id, const LooseRecord& record);

  /// Ids in the order of their bytes after `after` (nullptr: from the first), at most `limit`, each once.
  [[nodiscard]] std::vector<IndexedBlob> list_after(const base::ObjectId* after, std::size_t limit) const;
  [[nodiscard]] std::vector<Claim> list_claims_after(const base::ObjectId* after, std::size_t limit) const;

 private:
  [[nodiscard]] std::int64_t guard(const base::ObjectId& id, const Place& place) const;
  [[nodiscard]] std::vector<IndexedBlob> find_damaged_locked(const PackRecord& pack) const;
  void mark_damaged_locked(const base::ObjectId& id, const Place& place);
  void forget_pack_locked(const std::string& name);
  void renew_state_locked();
  void end_reading_locked();

  base::ObjectFormat format_;
  mutable std::mutex mutex_;  ///< guards everything below
  mutable formats::Database database_;
  mutable std::map<std::int64_t, std::string> names_;
  mutable std::unique_ptr<formats::Statement> find_;
  bool reading_ = false;
  bool others_can_write_ = false;  ///< while somebody reads; not where the file system has no shared memory
};

}  // namespace vat::internal
