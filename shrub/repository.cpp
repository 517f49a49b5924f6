#include "shrub/repository.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/internal/repositories.h"

namespace shrub {
namespace {

namespace fs = std::filesystem;

bool is_repository(const fs::path& path) {
  const auto is_there = [&](const char* name) {
    return base::find_stat(AT_FDCWD, path / name, true).has_value();
  };
  return is_there(".git") || (is_there("HEAD") && is_there("objects/.") && is_there("refs/."));
}

}  // namespace

std::unique_ptr<Repository> Repository::find(const std::string& path) {
  std::error_code failure;
  const auto start = fs::weakly_canonical(fs::absolute(path), failure);
  for (fs::path at = start; !failure; at = at.parent_path()) {
    if (is_repository(at)) {
      auto repository = internal::open_with_libgit2(at.string());
      return repository != nullptr ? std::move(repository) : internal::open_with_git_program(at.string());
    }
    if (at == at.root_path()) break;
  }
  throw base::Error(base::Category::no_store, path + ": not in a git repository");
}

Repository::Kept Repository::find_kept(bool reflog) {
  Kept kept;
  kept.tips = refs();
  std::set<std::string> seen;
  for (const auto& tip : kept.tips) seen.insert(tip.id);
  kept.directories = find_git_directories(places());
  const auto add = [&](const std::vector<KeptObject>& objects, bool is_logged) {
    for (const auto& [name, id, may_be_gone] : objects) {
      if (!seen.insert(id).second) continue;
      auto tip = find_tip(name, id);
      if (tip) {
        tip->is_logged = is_logged;
        kept.tips.push_back(*std::move(tip));
      } else if (may_be_gone) {
        ++kept.gone;
      } else {
        throw base::Error(base::Category::refused, name + ": leads to what is not in the repository");
      }
    }
  };
  const auto size = id_size();
  for (const auto& directory : kept.directories) add(shrub::find_kept(directory, size), false);
  add(find_stashes(kept.directories.front(), size), false);
  if (!reflog) return kept;
  for (const auto& directory : kept.directories) add(find_logged(directory, size), true);
  return kept;
}

void Repository::log(const std::string& commit, const std::string& path,
                     const std::function<bool(const CommitInfo&)>& visit) {
  walk({commit}, [&](const CommitInfo& info) {
    const auto here = find_id(info.id, path);
    const bool changed = info.parents.empty()
                             ? here.has_value()
                             : std::all_of(info.parents.begin(), info.parents.end(),
                                           [&](const auto& parent) { return find_id(parent, path) != here; });
    return !changed || visit(info);
  });
}

}  // namespace shrub
