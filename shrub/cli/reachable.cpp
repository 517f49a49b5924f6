#include <algorithm>
#include <ctime>
#include <unordered_set>

#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "shrub/cli/reach.h"
#include "shrub/cli/verbs.h"
#include "vat/live.h"

namespace shrub_cli {

std::vector<cli::Option> reach_options() {
  return {{"--worktree", "",
           "only the shrub as it lies there, in each working tree of the repository, and what else of these "
           "is named"},
          {"--index", "", "only what is staged, and what else of these is named"},
          {"--all-refs", "",
           "only commits: those of all refs, working trees and stashes, and all before them; and what else "
           "is named"},
          {"--reflog", "", "with commits, those that refs led to earlier too"},
          {"--since", "TIME",
           "older commits only if a ref names them: a time like 2026-11-21T10:00:00Z, or how long ago, like "
           "90d"}};
}

shrub::Shrub whole_shrub(const std::string& path) {
  auto shrub = shrub::Shrub::find(path);
  if (shrub.relative(path) != ".")
    throw base::Error(base::Category::usage, path + ": only a part of the shrub " + shrub.root());
  return shrub;
}

shrub::ReachOptions reach_options_of(const cli::Call& call) {
  shrub::ReachOptions options;
  if (call.has("--worktree") || call.has("--index") || call.has("--all-refs"))
    options = {call.has("--worktree"), call.has("--index"), call.has("--all-refs"), false, {}};
  options.reflog = call.has("--reflog");
  if (const auto since = call.find("--since")) {
    options.since = cli::parse_time(*since);
    if (!options.since)
      options.since = std::time(nullptr) - static_cast<std::int64_t>(call.duration("--since", 0));
  }
  return options;
}

namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto options = reach_options_of(call);
  // All is found before anything is said: who reads half of it would take the rest for unneeded.
  std::vector<base::ObjectId> ids;
  std::unordered_set<base::ObjectId> seen;
  const auto add = [&](const base::ObjectId& id) {
    if (seen.insert(id).second) ids.push_back(id);
  };
  for (const auto& path : call.all("SHRUB")) {
    std::vector<vat::Root> roots;
    shrub::for_each_reached(path, options, [&](const shrub::ReachedVref& reached) {
      for (const auto& root : shrub::roots_of(reached.vref)) roots.push_back(root);
    });
    std::optional<shrub::Vats> vats;
    if (call.has("--chunks")) vats = open_vats(shrub::Shrub::find(path), call, output);
    for (const auto& root : roots) {
      for (const auto& id : {root.manifest, root.layout, root.blob, root.recipe})
        if (id) add(*id);
      if (!vats) continue;
      vat::LiveSet live;
      vat::add_live(*vats->source, root, live);
      for (const auto& id : live) add(id);
    }
  }
  if (call.has("--chunks")) std::sort(ids.begin(), ids.end());
  for (const auto& id : ids) {
    if (output.json())
      output.record("reachable", {{"id", id.hex()}});
    else if (call.has("--null"))
      output.write(base::as_bytes(id.hex() + std::string(1, '\0')));
    else
      output.line(id.hex());
  }
  return 0;
}

}  // namespace

cli::Command reachable_command() {
  auto options = reach_options();
  options.insert(options.end(), {{"--chunks", "", "all blobs they need, too"},
                                 {"--null", "", "a zero byte after each, not a newline"}});
  for (auto& option : cli::fetch_options()) options.push_back(std::move(option));
  return {
      "reachable",
      "Print what the vrefs of a repository need",
      "Prints the ids of all roots (manifests, layouts, files, recipes, traces) that vrefs name: in the "
      "working "
      "tree, in the index, and in all commits that refs, working trees and stashes lead to, without a "
      "checkout. Of a "
      "whole shrub these are the vrefs of all shrubs in that repository; of a part only its own, which is no "
      "list "
      "for gc.\n\n"
      "A vref, commit or history that cannot be read ends it (exit 8), and nothing is printed.",
      {{"SHRUB", cli::Argument::Count::some, "shrubs, or directories or vrefs in them",
        cli::Completion::directory}},
      options,
      {{"shrub reachable deps.shrub | vat --vat deps.vat gc --live -", "let go what no commit needs"},
       {"shrub reachable --since 90d deps.shrub", "as if older commits that no ref names were not there"}},
      {4, 5, 6, 7, 8, 10, 11, 12},
      run};
}

}  // namespace shrub_cli
