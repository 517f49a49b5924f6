// Commits of a git repository, read without a checkout.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shrub/git_state.h"

namespace shrub {

struct CommitInfo {
  std::string id;  ///< hex
  std::vector<std::string> parents;
  std::int64_t time = 0;  ///< of the commit, seconds
  std::string author;     ///< Name <mail>
  std::string subject;    ///< first line of the message
};

/// A name for a commit: a ref, HEAD of a working tree, an entry of a reflog.
struct GitRef {
  std::string name;
  std::string id;           ///< hex: of what it names, as a tag
  std::string commit = {};  ///< hex; empty: it leads to no commit …
  std::string tree = {};    ///< … but to this tree, or, if that is empty too, to a blob
  bool is_logged = false;   ///< it only was the place of a ref once
};

struct GitEntry {
  enum class Type : std::uint8_t { file, directory, other };  ///< other: symlinks and submodules
  std::string name;
  Type type = Type::other;
  std::string id;  ///< hex
};

/// An open repository: ordinary, bare, a linked worktree, shallow, of either object format. libgit2 reads it;
/// where that refuses (SHA-256, shallow clones, some extensions) the git program does. Paths are relative to
/// the top of the tree, `.` for the top itself; commits are named by their ids, as resolve() gives them.
///
/// One thread at a time. Errors: not_found, refused for a repository that cannot be read as it is, local.
class Repository {
 public:
  /// The repository that `path`, which need not exist, lies in. Throws no_store if there is none.
  [[nodiscard]] static std::unique_ptr<Repository> find(const std::string& path);

  virtual ~Repository() = default;
  Repository(const Repository&) = delete;
  Repository& operator=(const Repository&) = delete;

  /// Absolute: the directory of the working tree, or of a bare repository.
  [[nodiscard]] const std::string& top() const noexcept { return top_; }

  /// The commit that a revision names (HEAD, a branch, a tag, an id, HEAD~2). Throws not_found.
  [[nodiscard]] virtual std::string resolve(const std::string& revision) = 0;
  /// What a directory holds, in git's order; nullopt if there is none.
  [[nodiscard]] virtual std::optional<std::vector<GitEntry>> list(const std::string& commit,
                                                                  const std::string& path) = 0;
  /// A file of at most `limit` bytes; nullopt if there is none.
  [[nodiscard]] virtual std::optional<std::string> read(const std::string& commit, const std::string& path,
                                                        std::size_t limit) = 0;
  /// The id of the blob or tree at `path`; nullopt if there is none.
  [[nodiscard]] virtual std::optional<std::string> find_id(const std::string& commit,
                                                           const std::string& path) = 0;
  /// These commits and all before them, each once, children first, until `visit` returns false.
  virtual void walk(const std::vector<std::string>& commits,
                    const std::function<bool(const CommitInfo&)>& visit) = 0;

  /// All that keeps commits: refs, and in each working tree HEAD and its like, refs of its own, what is under
  /// way, and what was stashed. `reflog`: what refs were before, too. Throws refused if any of that cannot be
  /// read.
  struct Kept {
    std::vector<GitRef> tips;
    std::vector<GitDirectory> directories;  ///< one for each working tree, the main one first
    std::uint64_t gone = 0;                 ///< names of objects that git has pruned
  };
  [[nodiscard]] Kept find_kept(bool reflog);

  /// The refs that all working trees share. Throws refused if one cannot be read.
  [[nodiscard]] virtual std::vector<GitRef> refs() = 0;
  /// What an object leads to; nullopt if the repository does not have it. `id` may be the begin of one; refused
  /// if it is that of several.
  [[nodiscard]] virtual std::optional<GitRef> find_tip(const std::string& name, const std::string& id) = 0;
  /// Where it lies, and its working trees.
  [[nodiscard]] virtual GitPlaces places() = 0;
  /// Digits of an id.
  [[nodiscard]] virtual std::size_t id_size() const = 0;
  /// The files of the index file at this absolute path: paths from the top, and ids. None if it is not there.
  /// What is only intended to be added has no content yet and is left out.
  [[nodiscard]] virtual std::vector<GitEntry> index(const std::string& file) = 0;
  /// The same as list() and read() by ids. Throws refused if the repository does not have it.
  [[nodiscard]] virtual std::vector<GitEntry> list_tree(const std::string& tree) = 0;
  [[nodiscard]] virtual std::string read_blob(const std::string& blob, std::size_t limit) = 0;
  /// Whether history was cut off when it was fetched.
  [[nodiscard]] virtual bool is_shallow() = 0;

  /// The commits that left at `path` something else than all of their parents have there, children first,
  /// until `visit` returns false.
  void log(const std::string& commit, const std::string& path,
           const std::function<bool(const CommitInfo&)>& visit);

 protected:
  explicit Repository(std::string top) : top_(std::move(top)) {}

 private:
  std::string top_;
};

}  // namespace shrub
