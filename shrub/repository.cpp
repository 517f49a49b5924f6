#include "shrub/repository.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

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

namespace internal {

bool is_other_worktree(const std::string& path, const std::string& top) {
  try {
    const auto there = base::find_stat(AT_FDCWD, path, true), own = base::find_stat(AT_FDCWD, top, true);
    return there && S_ISDIR(there->st_mode) &&
           !(own && own->st_dev == there->st_dev && own->st_ino == there->st_ino);
  } catch (const base::Error& error) {
    throw base::Error(base::Category::refused, std::string("working tree ") + error.what());
  }
}

}  // namespace internal

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
