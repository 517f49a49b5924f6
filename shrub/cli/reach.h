// What reachable, is-live and gc share.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/output.h"
#include "shrub/reachability.h"
#include "shrub/shrub.h"
#include "vat/vat.h"

namespace shrub_cli {

/// --worktree, --index, --all-refs, --reflog, --since and --absent-worktrees.
[[nodiscard]] std::vector<cli::Option> reach_options();
/// The shrub of a path. Throws usage if that is only a part of one: what the rest needs would look as if
/// nothing did.
[[nodiscard]] shrub::Shrub whole_shrub(const std::string& path);

/// All of them unless some are named.
/// `output` outlives it; each note is said once.
[[nodiscard]] shrub::ReachOptions reach_options_of(const cli::Call& call, cli::Output& output);

/// Told a vref that is needed, and where the blobs are that it needs.
using LookAtVref = std::function<void(const shrub::ReachedVref&, vat::BlobSource&)>;

/// Looks at all shrubs that these vats remember to serve and that are not among `visited`: what they need is
/// to stay, too, whatever of it is checked out. `forgotten`: roots of shrubs that are left out. Throws
/// refused if one of them cannot be read.
void look_at_others(const std::vector<std::shared_ptr<vat::Vat>>& vats,
                    const std::set<std::string>& forgotten, const cli::Call& call, cli::Output& output,
                    shrub::ReachOptions options, shrub::Visited& visited, const LookAtVref& look);

}  // namespace shrub_cli
