// The two readers of git repositories. Both take the directory of the working tree or of the bare repository.
#pragma once

#include <memory>
#include <string>

#include "shrub/repository.h"

namespace shrub::internal {

/// nullptr if libgit2 does not know this kind of repository.
[[nodiscard]] std::unique_ptr<Repository> open_with_libgit2(const std::string& top);

/// Drives `git cat-file --batch`. Throws local if there is no git program.
[[nodiscard]] std::unique_ptr<Repository> open_with_git_program(const std::string& top);

}  // namespace shrub::internal
