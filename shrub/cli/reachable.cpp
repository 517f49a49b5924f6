#include <algorithm>
#include <ctime>
#include <filesystem>
#include <memory>
#include <set>
#include <unordered_set>

#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "shrub/cli/reach.h"
#include "shrub/cli/verbs.h"
#include "vat/live.h"
#include "vat/served.h"

namespace shrub_cli {

std::vector<cli::Option> reach_options() {
  return {{"--worktree", "",
           "only the shrub as it lies there, in each working tree of the repository, and what else of these "
           "is named"},
          {"--index", "", "only what is staged, and what else of these is named"},
          {"--all-refs", "",
           "only commits: those of all refs, working trees and stashes, and all before them; and what else "
           "is named"},
          {"--reflog", "", "if some of these are named: commits that refs led to earlier, too"},
          {"--absent-worktrees", "",
           "go on although a working tree that is locked, or the main one, is not there: of it only the "
           "index, HEAD "
           "and refs count"},
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

shrub::ReachOptions reach_options_of(const cli::Call& call, cli::Output& output) {
  shrub::ReachOptions options;
  if (call.has("--worktree") || call.has("--index") || call.has("--all-refs")) {
    options.worktree = call.has("--worktree");
    options.index = call.has("--index");
    options.refs = call.has("--all-refs");
    options.reflog = call.has("--reflog");
  }
  options.absent_worktrees = call.has("--absent-worktrees");
  options.on_note = [&output, said = std::make_shared<std::set<std::string>>()](const std::string& text) {
    if (said->insert(text).second) output.warning(text);  // shared: copies of the options say it once
  };
  if (const auto since = call.find("--since")) {
    options.since = cli::parse_time(*since);
    if (!options.since)
      options.since = std::time(nullptr) - static_cast<std::int64_t>(call.duration("--since", 0));
  }
  return options;
}

namespace {

/// Looks at one shrub that a vat remembers to serve, wherever its vrefs are now.
void look_at_served(const vat::ServedShrub& served, const std::vector<std::shared_ptr<vat::Vat>>& vats,
                    const cli::Call& call, cli::Output& output, shrub::ReachOptions options,
                    shrub::Visited& visited, const LookAtVref& look) {
  std::vector<std::shared_ptr<vat::BlobSource>> sources(vats.begin(), vats.end());
  std::error_code failure;  // what cannot be looked at is refused below
  const bool is_there =
      std::filesystem::exists(std::filesystem::path(served.path) / shrub::kVatListFile, failure);
  const bool has_repository =
      !served.repository.empty() && std::filesystem::exists(served.repository, failure);
  try {
    if (is_there) {
      const auto shrub = shrub::Shrub::find(served.path);
      if (visited.shrubs.contains(shrub.root())) return;
      try {
        sources.push_back(open_vats(shrub, call, output).source);
      } catch (const base::Error&) {  // what it needs of this vat is in this vat
      }
      options.needs_repository = !served.repository.empty();
      vat::SourceSet source(sources);
      return shrub::for_each_reached(
          shrub.root(), options, [&](const auto& reached) { look(reached, source); }, &visited);
    }
    // It was moved or deleted, or another branch is checked out: what was committed is in its repository.
    if (!has_repository) throw base::Error(base::Category::no_store, "no shrub here");
    vat::SourceSet source(sources);
    shrub::for_each_reached_of_repository(
        served.repository, options, [&](const auto& reached) { look(reached, source); }, &visited);
  } catch (const base::Error& error) {
    const std::string forget = "shrub gc --forget-shrub " + served.path;
    throw base::Error(base::Category::refused,
                      "shrub " + served.path + " uses this vat, too, and cannot be read: " + error.what(),
                      !is_there && !has_repository
                          ? "if it is gone for good: " + forget
                          : (error.hint().empty() ? std::string() : error.hint() + "; ") +
                                "or let go what only it needs: " + forget);
  }
}

}  // namespace

void look_at_others(const std::vector<std::shared_ptr<vat::Vat>>& vats,
                    const std::set<std::string>& forgotten, const cli::Call& call, cli::Output& output,
                    shrub::ReachOptions options, shrub::Visited& visited, const LookAtVref& look) {
  // --worktree and its like say what counts of the shrubs that are named.
  options.worktree = options.index = options.refs = options.reflog = true;
  std::set<std::string> known = forgotten;
  for (const auto& vat : vats)
    for (const auto& served : vat::list_served(*vat))
      if (known.insert(served.path).second)
        look_at_served(served, vats, call, output, options, visited, look);
}

namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto options = reach_options_of(call, output);
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
      "tree, in the index, and in all commits that refs, reflogs, working trees, stashes and what is under "
      "way in "
      "them lead to, without a checkout. Of a "
      "whole shrub these are the vrefs of all shrubs in that repository; of a part only its own, which is no "
      "list "
      "for gc.\n\n"
      "A vref, commit or history that cannot be read ends it (exit 8), and nothing is printed.",
      {{"SHRUB", cli::Argument::Count::some, "shrubs, or directories or vrefs in them",
        cli::Completion::directory}},
      options,
      {{"shrub reachable deps.shrub | xargs vat --vat deps.vat push --to s3://bucket/deps.vat",
        "send what any commit needs"},
       {"shrub reachable --since 90d deps.shrub", "as if older commits that no ref names were not there"}},
      {4, 5, 6, 7, 8, 10, 11, 12},
      run};
}

}  // namespace shrub_cli
