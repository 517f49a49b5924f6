// What a git repository keeps besides its refs: in each of its working trees the index, HEAD and its like,
// refs that only that working tree has, what a merge, rebase or bisect under way remembers, and reflogs. Read
// from the files of git's directories (gitrepository-layout(5)), as also git reads them only for the working
// tree it runs in.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace shrub {

/// One of the directories in which git keeps what belongs to a working tree.
struct GitDirectory {
  std::string path;      ///< `.git`, or `.git/worktrees/NAME`
  bool is_main = false;  ///< the one that also has the objects
  std::string worktree;  ///< absolute; empty: a bare repository, or it is not known where
  bool is_known = true;  ///< false: there is a main working tree, but nothing says where (--separate-git-dir)
  bool is_there = false;                   ///< the working tree is
  bool is_locked = false;                  ///< by `git worktree lock`: it may be absent because its disk is
  [[nodiscard]] std::string name() const;  ///< for messages
};

/// What a repository says of itself, wherever it is asked.
struct GitPlaces {
  std::string common;    ///< absolute: the directory that has objects and refs
  std::string own;       ///< absolute: that of the working tree that was opened; of the main one the same
  std::string top;       ///< the working tree that was opened; `common` if the git directory itself was
  bool is_bare = false;  ///< there is no main working tree
  std::string worktree;  ///< what the setting core.worktree of the main one says; may be empty
};

/// The main one first. Throws refused for what cannot be read.
[[nodiscard]] std::vector<GitDirectory> find_git_directories(const GitPlaces& places);

/// The directory with the objects and refs of the repository that `path` (absolute, it need not exist) lies
/// in, found as git finds it; empty if there is none. Nothing of it is read.
[[nodiscard]] std::string find_common_directory(const std::string& path);

/// An object that a file in such a directory names, but no ref.
struct KeptObject {
  std::string name;          ///< the file, or a ref
  std::string id;            ///< hex; of what is to be done in a rebase or cherry-pick maybe only its begin
  bool may_be_gone = false;  ///< git itself does not keep it, as what a reflog names
};

/// All but reflogs. `hex_size`: of an id. Throws refused for what cannot be read.
[[nodiscard]] std::vector<KeptObject> find_kept(const GitDirectory& directory, std::size_t hex_size);
/// What refs were before; of the stash, which is nothing but a reflog, what it is.
[[nodiscard]] std::vector<KeptObject> find_logged(const GitDirectory& directory, std::size_t hex_size);
[[nodiscard]] std::vector<KeptObject> find_stashes(const GitDirectory& main, std::size_t hex_size);

/// What files of refs that all working trees share, and lines of packed-refs, say of refs that are not among
/// `names`: who lists refs passes over those that are damaged, and does not know of those that are made
/// meanwhile. Throws refused for what is no ref.
[[nodiscard]] std::vector<KeptObject> find_other_refs(const std::string& common,
                                                      const std::vector<std::string>& names,
                                                      std::size_t hex_size);

}  // namespace shrub
