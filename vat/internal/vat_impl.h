// The parts of an open vat that adding, reading, verifying and indexing share.
#pragma once

#include <bitset>
#include <ctime>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "formats/base/file.h"
#include "formats/base/file_systems.h"
#include "formats/base/unique_fd.h"
#include "formats/compression/decoder.h"
#include "formats/vat_json/vat_settings.h"
#include "vat/internal/group_cache.h"
#include "vat/internal/index.h"
#include "vat/vat.h"

namespace vat {

/// A hand-filled file: primary/3f/9ac1….blob[.gz|.bz2|.xz|.zst].
struct LooseFile {
  base::ObjectId id;
  formats::Codec codec;
  [[nodiscard]] std::string path() const;  ///< below the vat
};

class Vat::Impl {
 public:
  Impl(std::string path, OpenOptions options);

  const std::string path;
  formats::VatSettings settings;
  chunker::Parameters parameters;
  base::UniqueFd dir;
  base::ObjectFormat format;

  void note(const std::string& text);

  /// The index; `work` runs again on another one if SQLite finds it damaged or it cannot be read or written.
  template <typename Work>
  auto with_index(Work&& work) {
    try {
      return work(*index());
    } catch (const base::Error& error) {
      if (!replace_index(error)) throw;
    }
    return work(*index());
  }

  /// Between these, look-ups are of one moment and cost less: no locks of the index until it changes, no look
  /// for hand-filled files where there were none. Calls may be nested.
  void begin_reading();
  void end_reading() noexcept;

  /// Forgets an index that failed so: one that was damaged is made anew, one that could not be read or
  /// written goes on in memory. False if the error is not the index's, or is one of being locked.
  bool replace_index(const base::Error& error);

  /// Brings the index up to date with the pack files that are there. `again` reads trailers of known packs
  /// too.
  void refresh(bool again);

  [[nodiscard]] bool is_proven(const base::ObjectId& content, const base::ObjectId& recipe);
  void note_proven(const std::vector<internal::Claim>& claims);

  /// Whether a good copy of that size is known; `others`: in a pack, and in none of these, by file name.
  [[nodiscard]] bool known_good(const base::ObjectId& id, std::uint64_t size,
                                const std::set<std::string>* others = nullptr);
  /// Remembers that the copy of the blob in that pack, by file name, was found bad.
  void mark_damaged(const base::ObjectId& id, const std::string& pack);
  enum class Copies : std::uint8_t { in_packs, anywhere };  ///< anywhere: in hand-filled files too
  /// Whether a copy that is in none of those packs is good: read and hashed now. A bad one is remembered as
  /// such.
  [[nodiscard]] bool has_proven_copy(const base::ObjectId& id, const std::set<std::string>& others,
                                     Copies copies);
  [[nodiscard]] std::optional<StoredBlob> find(const base::ObjectId& id);
  [[nodiscard]] internal::ProvenBlob read_place(const base::ObjectId& id, const internal::Place& place);
  [[nodiscard]] std::optional<internal::ProvenBlob> find_packed(const base::ObjectId& id,
                                                                std::string& damage);

  /// A bad file that was changed less than so many seconds ago may still be on its way.
  static constexpr std::time_t kArriving = 3600;

  /// Throws local if there are packs that could not be read: what is missing may be in them.
  void refuse_unreadable() const;
  /// Throws not_found, or local if that may be for want of permission.
  [[noreturn]] void fail_to_find(const base::ObjectId& id);

  /// Hand-filled files for `id` that exist, in a fixed order.
  [[nodiscard]] std::vector<LooseFile> loose_files(const base::ObjectId& id) const;
  /// All of them; names outside the grammar are passed over.
  [[nodiscard]] std::vector<LooseFile> all_loose_files() const;
  /// Tells one state of a hand-filled file from another: a hash of its file system, inode, size and times.
  /// Where these stand for no content (base::FileSystems), they do so for this object only, and the file is
  /// not vouched for.
  struct FileState {
    std::int64_t value = 0;
    bool is_vouched = false;
  };
  [[nodiscard]] FileState state_of(const LooseFile& file, const struct stat& info);
  /// Hashes the file unless it is known and unchanged. nullopt if it is gone.
  [[nodiscard]] std::optional<internal::LooseRecord> check_loose(const LooseFile& file);
  /// Decodes the file into `sink` and returns whether it matched its id.
  bool read_loose(const LooseFile& file, const base::ByteSink& sink) const;

  /// What a pack's trailer says it holds, or what hashing its groups shows if that is lost. nullopt if it is
  /// gone.
  [[nodiscard]] std::optional<internal::IndexedPack> read_pack(const internal::PackRecord& pack);
  [[nodiscard]] std::shared_ptr<base::UniqueFd> open_pack(
      std::int64_t number);  // shared: readers may outlive the cache
  /// File names of packs that something was read from.
  [[nodiscard]] std::set<std::string> packs_read();
  /// The bytes of a group as they lie in the file. Throws corrupt if it ends before.
  [[nodiscard]] base::Buffer read_group(int fd, const formats::GroupPlace& place) const;
  [[nodiscard]] formats::DecodedGroup decode(int fd, const formats::GroupPlace& place) const;

  /// Whoever takes a copy away because there is another holds this meanwhile, so that no two rely on each
  /// other's. Throws busy if another process does.
  [[nodiscard]] base::UniqueFd lock_removal() const;

  /// The directory for what is being written, made if it is not there; open as long as the vat is.
  [[nodiscard]] int open_tmp();

  /// Moves a file of the vat to local/quarantine.
  void put_aside(const std::string& file, const std::string& name) const;

  /// What vat.json of a new vat says.
  [[nodiscard]] static std::string new_settings(base::ObjectFormat format,
                                                const chunker::Parameters& parameters, bool is_shared);

  static constexpr const char* kPackDir = "primary/pack";
  [[nodiscard]] static bool is_pack_name(std::string_view name);

 private:
  [[nodiscard]] bool is_rescanned();
  [[nodiscard]] std::shared_ptr<internal::Index> index();
  [[nodiscard]] std::shared_ptr<internal::Index> open_index();
  [[nodiscard]] std::shared_ptr<internal::Index> find_index(const internal::IndexLocation& location) const;
  [[nodiscard]] std::shared_ptr<internal::Index> proofs();

  OpenOptions options_;
  base::UniqueFd tmp_;
  std::mutex systems_mutex_;
  base::FileSystems systems_;
  const std::string run_ = base::random_name();
  std::mutex rescan_mutex_;                 ///< held while all packs are indexed anew
  mutable std::mutex mutex_;                ///< guards what follows; never held while reading or hashing
  std::shared_ptr<internal::Index> index_;  // shared: a rebuild may replace it under a reader
  internal::IndexLocation index_location_;
  std::shared_ptr<internal::Index> proofs_;  // shared: as index_
  std::map<std::int64_t, std::shared_ptr<base::UniqueFd>> pack_fds_;
  std::set<std::string> packs_read_;
  bool rescanned_ = false;
  int readings_ = 0;
  std::optional<std::bitset<256>> loose_prefixes_;  ///< first bytes of ids, while reading
  std::string unreadable_;  ///< why something that is not found may be there all the same
  std::mutex note_mutex_;
  std::set<std::string> noted_;  ///< each is said once
  internal::GroupCache groups_;
};

/// begin_reading() and end_reading().
class Reading {
 public:
  explicit Reading(Vat::Impl& vat) : vat_(vat) { vat_.begin_reading(); }
  ~Reading() { vat_.end_reading(); }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

 private:
  Vat::Impl& vat_;
};

}  // namespace vat
