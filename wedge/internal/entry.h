// Looking at an entry of a wedge: what lies there, what it holds, whether it may be moved.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "formats/base/object_id.h"
#include "formats/base/unique_fd.h"
#include "formats/compression/decoder.h"
#include "formats/disk/disk.h"
#include "wedge/comparison.h"
#include "wedge/wedge.h"

namespace wedge::internal {

/// Makes `name` in `dir`, to become the entry `path`; returns its size in bytes. It is the caller that syncs.
std::uint64_t write_image_as_qcow2(vat::BlobSource& source, const EntryRoot& root, const std::string& path,
                                   int dir, const std::string& name,
                                   const std::function<void(std::uint64_t)>& progress);

/// Whether an extra path is one that programs leave beside what they use.
[[nodiscard]] bool is_by_product(const std::string& path);

/// Lets the owner write a directory for as long as it is being moved; then its mode is as before. Anything
/// else is left alone.
class WritableTop {
 public:
  WritableTop(int parent, const std::string& name);
  ~WritableTop();
  WritableTop(const WritableTop&) = delete;
  WritableTop& operator=(const WritableTop&) = delete;

 private:
  std::optional<mode_t> mode_;
  base::UniqueFd fd_;
};

/// Refuses to move `path` below the directory `top` if it is a mount point or has one in it: the mount would
/// go along, and nobody could remove it later.
void refuse_mounts(int top, const std::string& path);

/// The proven content of a root as a file without a name, read from its start. Archives are read forwards
/// only, but what they lie in may have to be read twice to be proven.
[[nodiscard]] base::UniqueFd spool(vat::BlobSource& source, const EntryRoot& root,
                                   const std::vector<base::ScratchPlace>& places);
[[nodiscard]] formats::ByteSource reading(int fd);

/// Whether the disk is made of what the recipe lists, chunk by chunk; the vat's data is not read, nor are
/// holes.
[[nodiscard]] bool holds_recipe(vat::BlobSource& source, const base::ObjectId& recipe, formats::Disk& disk);
/// The id of a file's content; no id at all if it is not `size` bytes long.
[[nodiscard]] base::ObjectId hash_content(int fd, base::ObjectFormat format, std::uint64_t size);

/// As verify_entry(), below an open wedge. `records`: where to look for what the file system kept; -1:
/// nowhere.
std::uint64_t verify_below(vat::BlobSource& source, int top, int records, const std::string& path,
                           const EntryRoot& root, const CompareOptions& options,
                           const std::function<void(const Difference&)>& on_difference);

}  // namespace wedge::internal
