#include "shrub/reachability.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <thread>
#include <unordered_set>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "shrub/internal/files.h"
#include "shrub/repository.h"
#include "shrub/shrub.h"

namespace shrub {
namespace {

using base::Category;
using base::Error;

constexpr int kMaxDepth = 256;  ///< of directories in a tree of git

std::string name_of(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}
std::string parent_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

/// What a vref of another version, or one that cannot be read, needs is not known.
template <typename Read>
auto refused_as(const std::string& path, Read&& read) {
  try {
    return read();
  } catch (const Error& error) {
    throw Error(Category::refused, path + ": " + error.what());
  }
}

std::string name_of_commit(const std::string& id) {
  return "commit " + id.substr(0, 12);
}

std::string place_of(const std::string& where, const std::string& path) {
  const bool is_commit = where.find_first_not_of("0123456789abcdef") == std::string::npos;
  return (is_commit ? name_of_commit(where) : where) + ": " + path;
}

class Finder {
 public:
  Finder(const ReachOptions& options, const std::function<void(const ReachedVref&)>& visit, Visited* visited)
      : options_(options), visit_(visit), visited_(visited != nullptr ? *visited : own_visited_) {}

  void run(const std::string& path) {
    shrub_ = Shrub::find(path);
    below_ = shrub_->relative(path);
    if (below_.ends_with(kVrefSuffix)) below_.resize(below_.size() - 5);
    try {
      repository_ = Repository::find(shrub_->root());
    } catch (const Error& error) {
      if (error.category() != Category::no_store) throw;
    }
    if (options_.worktree) visit_worktree(*shrub_, below_, "worktree");
    if (repository_ == nullptr) {
      if (options_.needs_repository)
        throw Error(
            Category::refused,
            shrub_->root() + ": lies in no git repository, so only the vrefs that lie there now would count",
            "--worktree, if that is meant");
      return note(shrub_->root() + ": lies in no git repository: only the vrefs that lie there now count");
    }
    top_ = internal::canonical(repository_->top());
    if (shrub_->root() != top_) place_ = shrub_->root().substr(top_.size() + 1);
    if (below_ != ".") prefix_ = place_ == "." ? below_ : place_ + "/" + below_;
    visit_repository();
    // Of a working tree that was moved by hand git does not know.
    if (options_.worktree) visit_shrubs(top_, "worktree");
  }

  void run_at(const std::string& common) {
    repository_ = Repository::find(common);
    visit_repository();
  }

 private:
  void note(const std::string& text) const {
    if (options_.on_note) options_.on_note(text);
  }

  void visit_repository() {
    const auto places = repository_->places();
    common_ = internal::canonical(places.common);
    // A part of a shrub is no reason to pass over the rest later.
    const bool is_known = prefix_.empty() ? !visited_.repositories.insert(common_).second
                                          : visited_.repositories.contains(common_);
    if (is_known) return;
    if (repository_->is_shallow() && options_.refs)
      throw Error(Category::refused,
                  repository_->top() + ": its history was cut off, so what it needs is not known",
                  "git fetch --unshallow");
    const auto kept = repository_->find_kept(options_.reflog && options_.refs);
    for (const auto& directory : kept.directories) {
      const bool is_own = !directory.worktree.empty() && internal::canonical(directory.worktree) == top_;
      require(directory);
      if (options_.index) {
        const auto file = directory.path + "/index";
        if (base::find_stat(AT_FDCWD, file, true))
          visit_index(file, is_own ? "index" : "index of " + directory.worktree);
      }
      if (options_.worktree && directory.is_there)
        visit_shrubs(internal::canonical(directory.worktree),
                     is_own ? "worktree" : "worktree " + directory.worktree);
    }
    if (options_.refs) visit_commits(kept.tips);
    if (kept.gone > 0)
      note(std::to_string(kept.gone) +
           " commits that reflogs and the like name are gone from the repository");
  }

  /// What lies in a working tree that is not there now is not known.
  void require(const GitDirectory& directory) const {
    if (!options_.worktree || directory.is_there || (directory.is_known && directory.worktree.empty()))
      return;
    const bool is_refused = directory.is_locked || !directory.is_known;
    if (is_refused && !options_.absent_worktrees)
      throw Error(
          Category::refused,
          directory.name() + (directory.is_known ? ": is absent and locked, so what lies in it is not known"
                                                 : ": it is not known where it is"),
          "mount it or run this there; --absent-worktrees goes on without it");
    note(directory.name() + ": is absent; its index and refs count");
  }

  /// The shrubs that lie in a working tree, at any path; of a part of one what is at the same place.
  void visit_shrubs(const std::string& top, const std::string& where) {
    if (prefix_.empty()) {
      if (visited_.trees.insert(top).second) find_shrubs(top, where, false, 0);
      return;
    }
    const auto place = top + "/" + place_;
    if (base::find_stat(AT_FDCWD, place + "/" + kVatListFile, true))
      visit_unless_removed(place, below_, where);
  }

  /// The shrub in a directory. Git may be about to remove the working tree it lies in, file by file: then
  /// there is nothing to be seen of it in the end.
  void visit_unless_removed(const std::string& directory, const std::string& below,
                            const std::string& where) {
    constexpr int kAttempts = 10;
    for (int attempt = 1;; ++attempt) {
      try {
        return visit_worktree(Shrub::find(directory), below, where);
      } catch (const Error&) {
        visited_.shrubs.erase(internal::canonical(directory));
        if (!base::find_stat(AT_FDCWD, directory + "/" + kVatListFile, true)) return;
        if (attempt == kAttempts) throw;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  /// `listed`: the directory lies in a shrub that was visited, and is not passed over there.
  void find_shrubs(const std::string& directory, const std::string& where, bool listed, int depth) {
    if (depth > kMaxDepth)
      throw Error(Category::refused, directory + ": too many directories in one another");
    const auto opened = refused_as(
        directory, [&] { return base::find_open_at(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY); });
    if (!opened) return;  // it was removed meanwhile
    const auto names = base::list_directory(opened->get());
    // Another repository has a list of its own.
    if (depth > 0 && std::binary_search(names.begin(), names.end(), ".git") &&
        find_common_directory(directory) != common_)
      return;
    if (std::binary_search(names.begin(), names.end(), kVatListFile)) {
      visit_unless_removed(directory, ".", where);
      listed = true;
    }
    for (const auto& name : names) {
      if (name == ".git") continue;
      const auto info = base::find_stat(opened->get(), name);
      if (info && S_ISDIR(info->st_mode))
        find_shrubs(directory + "/" + name, where, listed && !name.starts_with('.'), depth + 1);
      else if (info && S_ISREG(info->st_mode) && !listed && name.ends_with(kVrefSuffix))
        visit_loose(*opened, name, where, directory + "/" + name);
    }
  }

  /// A file that is named like a vref and lies in no shrub.
  void visit_loose(const base::UniqueFd& directory, const std::string& name, const std::string& where,
                   const std::string& path) {
    std::optional<formats::Vref> vref;
    const auto text =
        refused_as(path, [&] { return base::find_file(directory.get(), name, formats::kMaxVref); });
    if (!text) return;
    try {
      vref = formats::parse_vref(*text);
    } catch (const Error&) {
      return;
    }
    if (texts_.insert(key_of(formats::to_text(*vref))).second) visit_({where, path, *vref});
  }

  /// The shrub as it lies there, committed or not.
  void visit_worktree(const Shrub& shrub, const std::string& below, const std::string& where) {
    if (below == "." && !visited_.shrubs.insert(shrub.root()).second) return;
    for (const auto& entry : shrub.entries(below)) {
      const auto vref = refused_as(entry + kVrefSuffix, [&] { return shrub.read(entry); });
      if (texts_.insert(key_of(formats::to_text(vref))).second) visit_({where, entry + kVrefSuffix, vref});
    }
  }

  void visit_index(const std::string& file_of_index, const std::string& where) {
    const auto files = repository_->index(file_of_index);
    std::set<std::string> shrubs;  // directories
    for (const auto& file : files)
      if (name_of(file.name) == kVatListFile) shrubs.insert(parent_of(file.name));
    const auto is_in_shrub = [&](const std::string& path) {
      for (auto at = parent_of(path);; at = parent_of(at)) {
        if (shrubs.contains(at)) return true;
        if (at.empty()) return false;
      }
    };
    for (const auto& file : files)
      if (file.type == GitEntry::Type::file && file.name.ends_with(kVrefSuffix) && is_wanted(file.name))
        visit_blob(where, file.name, file.id, is_in_shrub(file.name));
  }

  void visit_commits(const std::vector<GitRef>& refs) {
    std::vector<std::string> tips;
    std::set<std::string> named, seen;
    for (const auto& ref : refs) {
      if (ref.commit.empty() && !ref.tree.empty()) visit_tree(ref.tree, {}, ref.tree, false, 0);
      if (ref.commit.empty()) continue;
      if (!ref.is_logged) named.insert(ref.commit);
      if (seen.insert(ref.commit).second) tips.push_back(ref.commit);
    }
    try {
      repository_->walk(tips, [&](const CommitInfo& commit) {
        if (!options_.since || commit.time >= *options_.since || named.contains(commit.id))
          visit_tree(commit.id, {}, tree_of(commit.id), false, 0);
        return true;
      });
    } catch (const Error& error) {
      if (error.category() != Category::not_found) throw;
      throw Error(Category::refused, error.what());  // history has a gap
    }
  }

  [[nodiscard]] std::string tree_of(const std::string& commit) {
    auto id = repository_->find_id(commit, ".");
    if (!id) throw Error(Category::refused, name_of_commit(commit) + ": its tree is not there");
    return *id;
  }

  void visit_tree(const std::string& commit, const std::string& path, const std::string& id, bool in_shrub,
                  int depth) {
    if (depth > kMaxDepth) throw Error(Category::refused, path + ": too many directories in one another");
    // What a tree holds says nothing of whether it lies in a shrub, or of where.
    if (!trees_.insert(id + (in_shrub ? "+" : "-") + (prefix_.empty() ? "" : path)).second) return;
    const auto entries = base::named(name_of_commit(commit), [&] { return repository_->list_tree(id); });
    for (const auto& entry : entries) in_shrub = in_shrub || entry.name == kVatListFile;
    for (const auto& entry : entries) {
      const auto full = path.empty() ? entry.name : path + "/" + entry.name;
      if (entry.type == GitEntry::Type::directory)
        visit_tree(commit, full, entry.id, in_shrub, depth + 1);
      else if (entry.type == GitEntry::Type::file && entry.name.ends_with(kVrefSuffix) && is_wanted(full))
        visit_blob(commit, full, entry.id, in_shrub);
    }
  }

  /// What is named like a vref and lies in no shrub is one if it reads as one: the shrub may have been made,
  /// or ignored, later; what was stashed untracked lies alone.
  void visit_blob(const std::string& where, const std::string& path, const std::string& id, bool in_shrub) {
    if (!blobs_.insert(id + (in_shrub ? "+" : "-")).second) return;
    const auto place = place_of(where, path);
    const auto text = refused_as(place, [&] { return repository_->read_blob(id, formats::kMaxVref); });
    std::optional<formats::Vref> vref;
    try {
      vref = refused_as(place, [&] { return formats::parse_vref(text); });
    } catch (const Error&) {
      if (in_shrub) throw;
      return;
    }
    if (texts_.insert(key_of(formats::to_text(*vref))).second) visit_({where, path, *vref});
  }

  [[nodiscard]] bool is_wanted(const std::string& path) const {
    return prefix_.empty() || path == prefix_ + kVrefSuffix || path.starts_with(prefix_ + "/");
  }

  static std::string key_of(const std::string& text) {
    return std::string(
        base::as_chars(base::hash_blob(base::ObjectFormat::sha256, base::as_bytes(text)).raw()));
  }

  const ReachOptions& options_;
  const std::function<void(const ReachedVref&)>& visit_;
  Visited own_visited_;
  Visited& visited_;
  std::optional<Shrub> shrub_;  ///< none: all of a repository
  std::string below_ = ".";     ///< in the shrub
  std::string top_, common_;    ///< of the repository: where it was opened, and its git directory
  std::string place_ = ".";     ///< of the shrub, from the top of the repository
  std::string prefix_;          ///< of below_ from the top of the repository; empty: all of it
  std::unique_ptr<Repository> repository_;
  std::unordered_set<std::string> trees_, blobs_, texts_;
};

}  // namespace

std::string ReachedVref::place() const {
  return place_of(where, path);
}

std::string place_in_repository(const std::string& root) {
  try {
    const auto top = internal::canonical(Repository::find(root)->top());
    return root == top ? std::string() : root.substr(top.size() + 1);
  } catch (const Error& error) {
    if (error.category() != Category::no_store) throw;
    return {};
  }
}

void for_each_reached(const std::string& path, const ReachOptions& options,
                      const std::function<void(const ReachedVref&)>& visit, Visited* visited) {
  Finder(options, visit, visited).run(path);
}

void for_each_reached_of_repository(const std::string& common, const ReachOptions& options,
                                    const std::function<void(const ReachedVref&)>& visit, Visited* visited) {
  Finder(options, visit, visited).run_at(common);
}

}  // namespace shrub
