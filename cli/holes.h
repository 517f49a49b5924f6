// --allow-holes: how many bytes of holes are hashed that cost nothing to state.
#pragma once

#include <cstdint>

#include "cli/command.h"

namespace cli {

[[nodiscard]] Option holes_option();
/// What was allowed; `otherwise` if nothing was said.
[[nodiscard]] std::uint64_t allowed_holes(const Call& call, std::uint64_t otherwise);

}  // namespace cli
