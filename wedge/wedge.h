// A wedge: the place where the roots of a shrub lie as trees and files, one entry each, changed atomically.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/object_id.h"
#include "vat/blob_source.h"
#include "wedge/comparison.h"
#include "wedge/tree_writer.h"

namespace wedge {

/// What an entry is to hold.
struct EntryRoot {
  enum class Type : std::uint8_t { tree, file, image };
  Type type = Type::tree;
  std::optional<base::ObjectId> manifest, layout;  ///< tree
  std::optional<base::ObjectId> blob, recipe;      ///< file, image
  std::uint64_t size = 0;
  bool executable = false;  ///< file: who may read it may run it
  std::string unpack;       ///< file: unpack it as this kind of archive, or empty
  /// image: what kind of file it becomes.
  enum class Form : std::uint8_t { raw, qcow2, qcow2_zstd, qcow2_overlay };
  Form form = Form::raw;
  [[nodiscard]] bool is_qcow2() const noexcept { return form != Form::raw; }
  /// qcow2_overlay: the image entry of the same wedge of which only differences are kept.
  struct Below {
    std::string entry;
    base::ObjectId recipe;
    std::uint64_t size = 0;
    bool is_qcow2 = false;
    friend bool operator==(const Below&, const Below&) = default;
  };
  std::optional<Below> below;
  /// What a vat has to have for it.
  [[nodiscard]] vat::Root content() const { return {manifest, layout, blob, recipe}; }
  friend bool operator==(const EntryRoot&, const EntryRoot&) = default;
};

/// Whether the group of the wedge at `path` shares it; false if there is no wedge.
[[nodiscard]] bool is_shared(const std::string& path);
/// Lets the group of the directory `path` sync it from now on; makes what is missing. Entries follow when
/// they are synced with Fidelity::shared.
void share(const std::string& path);

struct SyncOptions {
  unsigned threads = 0;
  SpotCheck spot_check;  ///< files of present entries that are read although the cache knows them
  Fidelity fidelity;
  /// Paths that sync did not make move over into the new entry. One that the new entry has too, with another
  /// type, content or target, blocks it.
  bool keep_extra = false;
  bool overwrite = false;  ///< … or are left behind in the old one, as changed files are
  bool in_place = false;   ///< change what is as sync left it where it lies, as far as it differs
  bool dry_run = false;
  std::uint64_t allow_holes = 0;            ///< of archives; see max_archive_holes()
  std::vector<base::ScratchPlace> scratch;  ///< for archives that are read twice; none: in the wedge
  /// Whether an entry will be synced by the same caller after this one. One that is an overlay on what
  /// changes is removed then, and is in the way otherwise. Empty: none will.
  std::function<bool(const std::string& entry)> is_next;
  std::function<void(std::uint64_t)> progress;
  /// Told what making an entry reads, before it is read; in a dry run too.
  std::function<void(const vat::Expected&)> on_reading;
};

struct SyncResult {
  enum class Outcome : std::uint8_t { unchanged, created, updated, adopted, removed, blocked };
  Outcome outcome = Outcome::unchanged;
  std::vector<Difference> in_the_way;  ///< blocked: paths that sync did not make, or that were changed since
  WriteSummary summary;
};

[[nodiscard]] std::string_view to_string(SyncResult::Outcome outcome) noexcept;

/// How an entry stands to what it is to hold.
struct EntryStatus {
  enum class State : std::uint8_t { clean, missing, outdated, changed, foreign };
  State state = State::clean;
  std::vector<Difference> differences;  ///< changed: from what sync made
};

[[nodiscard]] std::string_view to_string(EntryStatus::State state) noexcept;

/// An open wedge. Everything sync needs to know lies in `.shrub/` inside it: `entries/` (what was made),
/// `tmp/` (what is being made), `old/` (the previous state of each entry, until its next change), `lock`.
///
/// A new entry is built in tmp/, made durable, then exchanged with the old one by one rename. A crash at any
/// moment leaves the old or the new state; the next Wedge finishes or forgets what was under way.
///
/// One thread at a time. Errors: busy if another process syncs the wedge; local; those of the blob source.
class Wedge {
 public:
  /// Opens for syncing; creates the directory if it is not there. Read only (for dry runs) it touches nothing
  /// and needs no directory.
  /// `cache` (may be nullptr, must outlive this) saves reading what is known; without it size and time stand
  /// for the content of what an earlier sync made.
  /// `on_note` (may be empty) is told, on the calling thread, what could not be done and stops no entry.
  explicit Wedge(const std::string& path, bool read_only = false, StatCache* cache = nullptr,
                 std::function<void(const std::string&)> on_note = {});
  ~Wedge();
  Wedge(const Wedge&) = delete;
  Wedge& operator=(const Wedge&) = delete;

  /// Makes entry `path` (relative, `a/b`) hold `root`. `owner` names the shrub it belongs to.
  SyncResult sync(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
                  const std::string& owner, const SyncOptions& options);
  /// Moves an entry away, if nothing in it would be lost.
  SyncResult remove(const std::string& path, const SyncOptions& options);

  /// Changes nothing. A foreign entry is not looked into. Of `options`, threads, fidelity and spot_check
  /// count. `source` tells what images without an id of their content were made of; without it (nullptr)
  /// their size and time stand for them.
  [[nodiscard]] EntryStatus status(const std::string& path, const EntryRoot& root, const SyncOptions& options,
                                   vat::BlobSource* source) const;

  /// The entries that syncs made, and for whom.
  [[nodiscard]] std::map<std::string, std::string> owners() const;
  /// From now on an entry that a sync made belongs to `owner`.
  void give(const std::string& path, const std::string& owner);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Compares entry `path` of the wedge at `wedge` with `root`, reading everything unless options.read_content
/// is false. Metadata and hard links that the file system kept otherwise when sync made the entry, as its
/// record says, are compared with what it kept; content never is.
std::uint64_t verify_entry(vat::BlobSource& source, const std::string& wedge, const std::string& path,
                           const EntryRoot& root, const CompareOptions& options,
                           const std::function<void(const Difference&)>& on_difference);

}  // namespace wedge
