#include "shrub/reachability.h"

#include <set>
#include <unordered_set>
#include <vector>

#include "formats/base/error.h"
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

/// What a vref of another version needs is not known either.
template <typename Read>
auto refused_as(const std::string& path, Read&& read) {
  try {
    return read();
  } catch (const Error& error) {
    if (error.category() == Category::local) throw;
    throw Error(Category::refused, path + ": " + error.what());
  }
}

class Finder {
 public:
  Finder(const std::string& path, const ReachOptions& options,
         const std::function<void(const ReachedVref&)>& visit)
      : options_(options), visit_(visit), shrub_(Shrub::find(path)), below_(shrub_.relative(path)) {
    if (below_.ends_with(kVrefSuffix)) below_.resize(below_.size() - 5);
    try {
      repository_ = Repository::find(shrub_.root());
    } catch (const Error& error) {
      if (error.category() != Category::no_store) throw;
    }
    if (below_ == "." || repository_ == nullptr) return;
    const auto& top = internal::canonical(repository_->top());
    prefix_ = shrub_.root() == top ? below_ : shrub_.root().substr(top.size() + 1) + "/" + below_;
  }

  void run() {
    if (options_.worktree) visit_worktree();
    if (repository_ == nullptr) return;
    if (repository_->is_shallow() && options_.refs)
      throw Error(Category::refused,
                  repository_->top() + ": its history was cut off, so what it needs is not known",
                  "git fetch --unshallow");
    if (options_.index) visit_index();
    if (options_.refs) visit_commits();
  }

 private:
  /// The shrub as it lies there, committed or not.
  void visit_worktree() {
    for (const auto& entry : shrub_.entries(below_)) {
      const auto vref = refused_as(entry + kVrefSuffix, [&] { return shrub_.read(entry); });
      if (texts_.insert(key_of(formats::to_text(vref))).second)
        visit_({"worktree", entry + kVrefSuffix, vref});
    }
  }

  void visit_index() {
    const auto files = repository_->index();
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
      if (file.type == GitEntry::Type::file && file.name.ends_with(kVrefSuffix) && is_wanted(file.name) &&
          is_in_shrub(file.name))
        visit_blob("index", file.name, file.id);
  }

  void visit_commits() {
    std::vector<std::string> tips;
    std::set<std::string> named;
    for (const auto& ref : repository_->refs(options_.reflog))
      if (named.insert(ref.commit).second) tips.push_back(ref.commit);
    repository_->walk(tips, [&](const CommitInfo& commit) {
      if (!options_.since || commit.time >= *options_.since || named.contains(commit.id))
        visit_tree(commit.id, {}, tree_of(commit.id), false, 0);
      return true;
    });
  }

  static std::string name_of_commit(const std::string& id) { return "commit " + id.substr(0, 12); }

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
    for (const auto& entry : entries)
      in_shrub = in_shrub || (entry.type == GitEntry::Type::file && entry.name == kVatListFile);
    for (const auto& entry : entries) {
      const auto full = path.empty() ? entry.name : path + "/" + entry.name;
      if (entry.type == GitEntry::Type::directory)
        visit_tree(commit, full, entry.id, in_shrub, depth + 1);
      else if (entry.type == GitEntry::Type::file && in_shrub && entry.name.ends_with(kVrefSuffix) &&
               is_wanted(full))
        visit_blob(commit, full, entry.id);
    }
  }

  void visit_blob(const std::string& where, const std::string& path, const std::string& id) {
    if (!blobs_.insert(id).second) return;
    const auto place = (where == "index" ? where : name_of_commit(where)) + ": " + path;
    const auto vref =
        refused_as(place, [&] { return formats::parse_vref(repository_->read_blob(id, formats::kMaxVref)); });
    if (texts_.insert(key_of(formats::to_text(vref))).second) visit_({where, path, vref});
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
  const Shrub shrub_;
  std::string below_;   ///< in the shrub
  std::string prefix_;  ///< the same from the top of the repository; empty: all of it
  std::unique_ptr<Repository> repository_;
  std::unordered_set<std::string> trees_, blobs_, texts_;
};

}  // namespace

void for_each_reached(const std::string& path, const ReachOptions& options,
                      const std::function<void(const ReachedVref&)>& visit) {
  Finder(path, options, visit).run();
}

}  // namespace shrub
