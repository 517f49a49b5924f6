// The id of the git tree object that holds the same content as a tree of ours.
#pragma once

#include <string>
#include <vector>

#include "formats/base/hash.h"
#include "formats/base/object_id.h"

namespace wedge {

/// Builds git tree ids bottom-up from files and symlinks in manifest order, by git's rules: mode 100755 iff
/// the owner may execute, directories without files left out, entries sorted as git sorts them. Nothing is
/// stored. One thread.
class GitTree {
 public:
  explicit GitTree(base::ObjectFormat format);
  void add_file(const std::string& path, const base::ObjectId& blob, bool executable);
  void add_symlink(const std::string& path, const std::string& target);
  /// The id of the whole; that of the empty tree if nothing was added.
  [[nodiscard]] base::ObjectId finish();

 private:
  struct Entry {
    std::string name;
    const char* mode;
    base::ObjectId id;
  };
  struct Directory {
    std::string name;
    std::vector<Entry> entries;
  };
  void add(const std::string& path, const char* mode, const base::ObjectId& id);
  base::ObjectId close_top();

  base::ObjectHasher hasher_;
  std::vector<Directory> open_;  ///< from the top directory to that of the last path
};

}  // namespace wedge
