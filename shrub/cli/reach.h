// What reachable, is-live and gc share.
#pragma once

#include <vector>

#include "cli/command.h"
#include "shrub/reachability.h"

namespace shrub_cli {

/// --worktree, --index, --all-refs, --reflog and --since.
[[nodiscard]] std::vector<cli::Option> reach_options();
/// All of them unless some are named.
[[nodiscard]] shrub::ReachOptions reach_options_of(const cli::Call& call);

}  // namespace shrub_cli
