// Where the content of members lies in a tar: pax (POSIX.1-2001), ustar, GNU and old forms.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "formats/base/bytes.h"

namespace formats {

/// Content of one member. It begins at a multiple of 512.
struct TarContent {
  std::uint64_t begin, size;  ///< bytes, in the archive
};

/// The members that have content, in order; nullopt if the bytes are no tar from begin to end, but for what
/// follows the end of the archive. Says nothing of names. Reads headers only. Memory: 16 bytes a member.
[[nodiscard]] std::optional<std::vector<TarContent>> find_tar_contents(const base::ReadAt& read,
                                                                       std::uint64_t size);

}  // namespace formats
