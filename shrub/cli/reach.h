// What reachable, is-live and gc share.
#pragma once

#include <vector>

#include "cli/command.h"
#include "shrub/reachability.h"
#include "shrub/shrub.h"

namespace shrub_cli {

/// --worktree, --index, --all-refs, --reflog and --since.
[[nodiscard]] std::vector<cli::Option> reach_options();
/// The shrub of a path. Throws usage if that is only a part of one: what the rest needs would look as if
/// nothing did.
[[nodiscard]] shrub::Shrub whole_shrub(const std::string& path);

/// All of them unless some are named.
[[nodiscard]] shrub::ReachOptions reach_options_of(const cli::Call& call);

}  // namespace shrub_cli
