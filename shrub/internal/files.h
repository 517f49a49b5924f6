// The files of a shrub, wherever they lie.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shrub/repository.h"

namespace shrub::internal {

/// Paths are relative, `.` for the top. One thread at a time.
class Files {
 public:
  struct Name {
    enum class Type : std::uint8_t { file, directory, link };
    std::string name;
    Type type = Type::file;
  };
  virtual ~Files() = default;
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  /// nullopt if there is none; refused if it is larger than `limit` bytes or no file.
  [[nodiscard]] virtual std::optional<std::string> read(const std::string& path, std::size_t limit) const = 0;
  /// The regular files, directories and symlinks in a directory. Throws not_found.
  [[nodiscard]] virtual std::vector<Name> list(const std::string& path) const = 0;

 protected:
  Files() = default;
};

[[nodiscard]] std::shared_ptr<const Files> files_in(
    const std::string& directory);  // shared: copies of a shrub
/// Those below `top` in a commit.
[[nodiscard]] std::shared_ptr<const Files> files_at(std::shared_ptr<Repository> repository,
                                                    std::string commit, std::string top);

/// Absolute, without symlinks, `..` and a slash at the end; it need not exist.
[[nodiscard]] std::string canonical(const std::string& path);
[[nodiscard]] bool is_below(const std::string& path, const std::string& directory);

}  // namespace shrub::internal
