#include "cli/gc.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "shrub/cli/reach.h"
#include "shrub/cli/verbs.h"
#include "vat/live.h"
#include "vat/served.h"

namespace shrub_cli {
namespace {

/// What the vrefs need.
std::vector<std::string> list_needed(const cli::Call& call, const shrub::ReachOptions& options) {
  std::set<base::ObjectId> ids;
  for (const auto& path : call.all("SHRUB"))
    shrub::for_each_reached(whole_shrub(path).root(), options, [&](const shrub::ReachedVref& reached) {
      for (const auto& root : shrub::roots_of(reached.vref))
        for (const auto& id : {root.manifest, root.layout, root.blob, root.recipe})
          if (id) ids.insert(*id);
    });
  cli::check_needed(!ids.empty());
  std::vector<std::string> names;
  for (const auto& id : ids) names.push_back(id.hex());
  return names;
}

/// Whether something is at the path of a shrub, or its repository may have what is not checked out.
bool is_there(const vat::ServedShrub& served) {
  std::error_code failure;  // what cannot be looked at may be there
  return std::filesystem::exists(served.path, failure) || failure ||
         (!served.repository.empty() && (std::filesystem::exists(served.repository, failure) || failure));
}

/// --forget-shrub. Returns their roots.
std::set<std::string> forget(const cli::Call& call, cli::Output& output,
                             const std::vector<std::shared_ptr<vat::Vat>>& vats) {
  std::set<std::string> forgotten;
  for (const auto& path : call.all("--forget-shrub")) {
    // A link may have taken the place of its directory: the path as it was noted comes first.
    const auto as_named = std::filesystem::absolute(path).lexically_normal().string();
    const auto canonical = shrub::full_name(std::filesystem::current_path().string(), "file://" + path);
    bool known = false;
    for (const auto& full : {as_named, canonical}) {
      if (known) break;
      for (const auto& vat : vats) {
        const auto served = vat::list_served(*vat);
        const auto one =
            std::find_if(served.begin(), served.end(), [&](const auto& each) { return each.path == full; });
        if (one == served.end()) continue;
        if (!known && is_there(*one))
          output.warning("--forget-shrub " + full + ": it is still there; what only it needs may go");
        known = true;
        if (!call.has("--dry-run")) (void)vat::forget_served(*vat, full);
      }
      if (known) forgotten.insert(full);
    }
    if (!known)
      throw base::Error(base::Category::not_found,
                        "--forget-shrub " + canonical + ": no shrub that uses this vat");
  }
  return forgotten;
}

int run(const cli::Call& call, cli::Output& output) {
  auto reach = reach_options_of(call, output);
  reach.needs_repository = !call.has("--worktree");
  const auto named = call.all("--vat");
  if (std::any_of(named.begin(), named.end(), vat::is_remote)) {
    if (named.size() > 1)
      throw base::Error(base::Category::usage, "which vat? of those that --vat names one is on another host",
                        "one --vat at a time");
    for (const auto& option : cli::fetch_options())
      if (const auto name = cli::long_name(option); call.has(name))
        throw base::Error(base::Category::usage, name + ": nothing is fetched for a vat on another host");
    return cli::gc_there(named[0], list_needed(call, reach), call, output);
  }
  auto options = cli::gc_options_of(call);
  vat::LiveSet live;
  std::set<std::pair<base::ObjectId, std::optional<base::ObjectId>>> roots;  // whose blobs are live
  std::vector<std::pair<std::string, shrub::Vats>> shrubs;
  std::vector<std::shared_ptr<vat::Vat>> vats;
  for (const auto& path : call.all("SHRUB")) {
    const auto& opened =
        shrubs.emplace_back(path, open_writable_vats(whole_shrub(path), call, output)).second;
    const auto known = [&](const auto& vat) { return vat->path() == opened.writable->path(); };
    if (std::none_of(vats.begin(), vats.end(), known)) vats.push_back(opened.writable);
  }
  const auto forgotten = forget(call, output, vats);
  const auto look_at = [&](const shrub::ReachedVref& reached, vat::BlobSource& source) {
    for (const auto& root : shrub::roots_of(reached.vref)) {
      if (!roots.emplace(root.id(), root.detail()).second) continue;
      base::named(reached.place(), [&] { vat::add_live(source, root, live); });
    }
    output.progress("live", live.size(), 0);
  };
  const auto look = [&] {
    shrub::Visited visited;
    for (const auto& [path, opened] : shrubs)
      shrub::for_each_reached(
          path, reach, [&, &source = *opened.source](const auto& reached) { look_at(reached, source); },
          &visited);
    look_at_others(vats, forgotten, call, output, reach, visited, look_at);
  };
  look();
  // Whatever came to be needed meanwhile, as by a checkout, stays too.
  options.before_removal = look;
  cli::check_needed(!live.empty());
  for (const auto& vat : vats)
    cli::print_gc(
        output, vat->path(),
        vat::collect_garbage(*vat, options, [&](const base::ObjectId& id) { return live.contains(id); }),
        options);
  return 0;
}

}  // namespace

cli::Command gc_command() {
  auto options = cli::gc_options();
  for (auto& option : reach_options()) options.push_back(std::move(option));
  options.push_back({"--forget-shrub", "PATH",
                     "first, take this shrub off the list of those that use the vat",
                     cli::Completion::directory, true});
  for (auto& option : cli::fetch_options()) options.push_back(std::move(option));
  return {
      "gc",
      "Take away from a vat what no vref needs",
      "Finds what the vrefs need, as `reachable` does, and takes the rest away from the writable vat, as "
      "`vat gc` does: packs of which nothing is needed are condemned by one run, and deleted by the first "
      "that comes the grace period later, if nothing has come to need them. What other shrubs of this "
      "machine need stays, too, if they ever added to, pushed to or synced from the vat; name those of other "
      "machines.\n\n"
      "A vref, commit, working tree or text that cannot be read ends it (exit 8), and nothing is deleted.\n\n"
      "Of a vat that --vat names by ssh:// the `vat` of that host takes it away. If shrubs of that host use "
      "it, "
      "too, name them all, and say --all-shrubs.",
      {{"SHRUB", cli::Argument::Count::some, "all shrubs that use the vat", cli::Completion::directory}},
      options,
      {{"shrub gc deps.shrub", "every week"},
       {"shrub gc -n deps.shrub", "what it would do"},
       {"shrub gc --vat ssh://host/srv/deps.vat deps.shrub", "the same on another host"}},
      {4, 5, 6, 7, 8, 9, 10, 11, 12},
      run};
}

}  // namespace shrub_cli
