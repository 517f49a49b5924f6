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

/// Those that `named` (paths) does not have of the shrubs that these vats remember to serve: what they need
/// is to stay, too. `forgotten`: roots of shrubs that are left out.
[[nodiscard]] std::vector<std::string> other_shrubs(const std::vector<std::string>& named,
                                                    const std::vector<std::shared_ptr<vat::Vat>>& vats,
                                                    const std::set<std::string>& forgotten = {});
/// Runs `look` at one of these, with what these vats and its own have. Throws refused, whatever is wrong with
/// it.
void look_at_other(const std::string& path, const std::vector<std::shared_ptr<vat::Vat>>& vats,
                   const cli::Call& call, cli::Output& output,
                   const std::function<void(vat::BlobSource&)>& look);

}  // namespace shrub_cli
