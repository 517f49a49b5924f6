// From a root to a file system: writes trees and files, proven, without ever leaving their directory.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "formats/base/object_id.h"
#include "formats/text/manifest.h"
#include "vat/blob_source.h"
#include "wedge/stat_cache.h"

namespace wedge {

/// What of a row's metadata is restored and compared. Without a flag it is left alone and not compared.
struct Fidelity {
  bool owners = false;  ///< uid, gid, setuid and setgid bits, attributes beyond user.*; needs root
  bool acls = false;    ///< access control lists; without them the group has what it has without a mask
  bool fifos = false;
  bool devices = false;  ///< needs root
  bool shared = false;   ///< the group may do what the owner may; directories are set-group-id
  friend bool operator==(const Fidelity&, const Fidelity&) = default;
};

struct WriteOptions {
  unsigned threads = 0;  ///< 0: one per core
  Fidelity fidelity;
  int reuse_top = -1;  ///< directory of an earlier state of the tree; files whose content is proven equal are
                       ///< taken from it
  /// Asked for each row in order: whether reuse_top has it as it is to be. If so, nothing is written for it,
  /// and directories that are there are made only to hold what is written, with mode 0700. May be empty.
  std::function<bool(const formats::Row&)> is_there;
  StatCache* cache = nullptr;  ///< what it knows of files in reuse_top is not read; learns of what is written
  std::function<void(std::uint64_t)> progress;      ///< content bytes in place so far, on the calling thread
  std::function<void(const formats::Row&)> on_row;  ///< each row that now exists, in order
};

struct WriteSummary {
  std::uint64_t files = 0;
  std::uint64_t reused_files = 0;  ///< linked, cloned or copied from reuse_top, whatever their times
  std::uint64_t fetched_size = 0;  ///< content bytes that came from the source
  std::uint64_t skipped_special = 0;
  std::uint64_t skipped_owners = 0;  ///< paths whose owner, setuid bit or capability was not restored …
  std::uint64_t skipped_acls = 0;    ///< … whose access control list was not, for want of the flag
  std::uint64_t skipped_xattrs = 0;  ///< the file system or the user's rights do not allow them
  std::uint64_t kept_otherwise =
      0;  ///< paths that the file system keeps with another mode, time, owner or link
};

/// Writes the tree of `manifest` and `layout` as a new directory `name` in `parent`. Nothing is synced, and
/// the directory itself keeps mode 0700 so that it can be moved into place; the caller does both. Throws
/// refused for malformed objects, not_found or corrupt for blobs, local for the file system.
WriteSummary write_tree(vat::BlobSource& source, const base::ObjectId& manifest, const base::ObjectId& layout,
                        int parent, const std::string& name, const WriteOptions& options);

/// What is known of a file that holds `blob`, as `recipe` has it in `source`.
[[nodiscard]] KnownFile known_content(vat::BlobSource& source, const std::optional<base::ObjectId>& blob,
                                      const std::optional<base::ObjectId>& recipe);

/// Throws refused unless `recipe` says that it is of `size` bytes and, where both say, of `blob`.
void check_recipe(vat::BlobSource& source, const base::ObjectId& recipe,
                  const std::optional<base::ObjectId>& blob, std::uint64_t size);

/// Writes content as a new file `name` in `parent`, mode 0600. `sparse`: zero blocks become
/// holes. Returns how many bytes came from the source; holes do not.
std::uint64_t write_content(vat::BlobSource& source, const std::optional<base::ObjectId>& blob,
                            const std::optional<base::ObjectId>& recipe, std::uint64_t size, bool sparse,
                            int parent, const std::string& name,
                            const std::function<void(std::uint64_t)>& progress);

/// … to an open file that is empty.
std::uint64_t write_content(vat::BlobSource& source, const std::optional<base::ObjectId>& blob,
                            const std::optional<base::ObjectId>& recipe, std::uint64_t size, bool sparse,
                            int fd);

/// Reads the rows of a manifest, pieces fetched through `source`.
[[nodiscard]] formats::ManifestReader read_manifest(vat::BlobSource& source, const base::ObjectId& manifest);

}  // namespace wedge
