// The trees, files and images of a shrub as one read-only tree of inodes, read from manifests as they are
// touched.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/text/manifest.h"
#include "vat/blob_source.h"
#include "wedge/wedge.h"

namespace wedge {

/// One vref, as it appears in the tree.
struct MountEntry {
  std::string path;  ///< below the top; a safe path, and none of them lies in another
  EntryRoot root;
  /// Of files and images, which have none of their own, and of the directories that entries lie in.
  formats::Timestamp time;
  /// How many paths a tree has, as far as that is said; inode numbers are set aside for so many.
  std::optional<std::uint64_t> paths;
};

/// Inode numbers depend on the entries and their manifests only. They are below 2^32, which is what programs
/// without 64-bit numbers can take, as long as entries say how many paths they have and these are not too
/// many. Memory: about 250 bytes for each path of an entry that was touched. Thread-safety: any member from
/// any thread. Errors: what reading a manifest throws; the next call tries again.
class MountTree {
 public:
  using Inode = std::uint64_t;
  static constexpr Inode kTop = 1;

  /// `keep_owners`: owners are those of the manifests, else those of this process. `source` outlives it. Its
  /// learn() is called for each entry before its manifest is read, and again before what its files are made
  /// of is asked for.
  MountTree(vat::BlobSource& source, const std::vector<MountEntry>& entries, bool keep_owners);
  ~MountTree();
  MountTree(const MountTree&) = delete;
  MountTree& operator=(const MountTree&) = delete;

  /// 0: there is none of that name.
  [[nodiscard]] Inode find(Inode directory, std::string_view name);
  /// All numbers are those that find() and list() gave.
  /// All of a file counts in st_blocks.
  [[nodiscard]] struct stat stat_of(Inode inode);
  /// Whether it is a file that had holes, or a disk image.
  [[nodiscard]] bool may_have_holes(Inode inode);
  /// Whoever looks keeps to the access control lists in xattrs_of(). Otherwise modes give nobody what a list
  /// denies somebody.
  void let_lists_be_kept();
  [[nodiscard]] std::string target_of(Inode symlink);
  [[nodiscard]] const std::map<std::string, std::string>& xattrs_of(Inode inode);

  /// Members of a directory from the `first` on, in the order of their names, until `visit` gives false.
  void list(Inode directory, std::size_t first,
            const std::function<bool(std::string_view name, Inode inode)>& visit);
  [[nodiscard]] Inode parent_of(Inode directory);

  /// What a file is made of; without a recipe it is stored as one blob.
  struct Content {
    std::optional<base::ObjectId> blob, recipe;
  };
  [[nodiscard]] Content content_of(Inode file);

  /// Its whole content, if that is named; asks nobody.
  [[nodiscard]] std::optional<base::ObjectId> find_blob(Inode file);

  [[nodiscard]] const std::vector<MountEntry>& entries() const noexcept;
  /// Where an inode lies, for messages.
  [[nodiscard]] std::string path_of(Inode inode);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wedge
