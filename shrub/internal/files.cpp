#include "shrub/internal/files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace shrub::internal {
namespace {

using base::Category;
using base::Error;

class DirectoryFiles final : public Files {
 public:
  explicit DirectoryFiles(const std::string& directory) : top_(base::open_directory(AT_FDCWD, directory)) {}

  [[nodiscard]] std::optional<std::string> read(const std::string& path, std::size_t limit) const override {
    return base::find_file(top_.get(), path, limit);
  }
  [[nodiscard]] std::vector<Name> list(const std::string& path) const override {
    const auto dir = base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
    std::vector<Name> names;
    for (auto& name : base::list_directory(dir.get())) {
      const auto info = base::find_stat(dir.get(), name);
      if (info && (S_ISDIR(info->st_mode) || S_ISREG(info->st_mode) || S_ISLNK(info->st_mode)))
        names.push_back({std::move(name), S_ISDIR(info->st_mode)   ? Name::Type::directory
                                          : S_ISREG(info->st_mode) ? Name::Type::file
                                                                   : Name::Type::link});
    }
    return names;
  }

 private:
  base::UniqueFd top_;
};

class CommitFiles final : public Files {
 public:
  CommitFiles(std::shared_ptr<Repository> repository, std::string commit, std::string top)
      : repository_(std::move(repository)), commit_(std::move(commit)), top_(std::move(top)) {}

  [[nodiscard]] std::optional<std::string> read(const std::string& path, std::size_t limit) const override {
    return repository_->read(commit_, full(path), limit);
  }
  [[nodiscard]] std::vector<Name> list(const std::string& path) const override {
    const auto entries = repository_->list(commit_, full(path));
    if (!entries)
      throw Error(Category::not_found, path + ": no such directory in commit " + commit_.substr(0, 12));
    std::vector<Name> names;
    for (const auto& entry : *entries)
      names.push_back({entry.name, entry.type == GitEntry::Type::directory ? Name::Type::directory
                                   : entry.type == GitEntry::Type::file    ? Name::Type::file
                                                                           : Name::Type::link});
    return names;
  }

 private:
  [[nodiscard]] std::string full(const std::string& path) const {
    if (top_ == ".") return path;
    return path == "." ? top_ : top_ + "/" + path;
  }
  std::shared_ptr<Repository> repository_;  // shared: with whoever looks at its history
  std::string commit_, top_;
};

}  // namespace

std::shared_ptr<const Files> files_in(const std::string& directory) {
  return std::make_shared<DirectoryFiles>(directory);
}

std::shared_ptr<const Files> files_at(std::shared_ptr<Repository> repository, std::string commit,
                                      std::string top) {
  return std::make_shared<CommitFiles>(std::move(repository), std::move(commit), std::move(top));
}

std::string canonical(const std::string& path) {
  std::error_code failure;
  const auto result = std::filesystem::weakly_canonical(path.empty() ? "." : path, failure);
  if (failure) base::throw_errno(path, failure.value());
  auto text = std::filesystem::absolute(result).lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

bool is_below(const std::string& path, const std::string& directory) {
  return path == directory || path.starts_with(directory == "/" ? directory : directory + "/");
}

}  // namespace shrub::internal
