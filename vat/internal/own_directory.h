// local/ and tmp/ of a vat: for its owner alone, or for its group if vat.json says that it is shared.
#pragma once

#include <string>

#include "formats/base/unique_fd.h"

namespace vat::internal {

inline constexpr const char* kLocal = "local";
inline constexpr const char* kTmp = "tmp";

/// The directory kLocal or kTmp of the vat that is open as `vat`, or a directory in it; made if need be.
/// Throws as base::ensure_directory().
[[nodiscard]] base::UniqueFd open_own(int vat, const char* name, const std::string& below = {});

/// Directories of the vat that anybody may read, such as "primary/pack"; made if need be, for the group if it
/// is shared.
[[nodiscard]] base::UniqueFd open_public(int vat, const std::string& path);

}  // namespace vat::internal
