#include "cli/gc.h"

#include <algorithm>
#include <set>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "shrub/cli/reach.h"
#include "shrub/cli/verbs.h"
#include "vat/live.h"

namespace shrub_cli {
namespace {

/// What the vrefs need.
std::vector<std::string> list_needed(const cli::Call& call) {
  std::set<base::ObjectId> ids;
  for (const auto& path : call.all("SHRUB"))
    shrub::for_each_reached(whole_shrub(path).root(), reach_options_of(call),
                            [&](const shrub::ReachedVref& reached) {
                              for (const auto& root : shrub::roots_of(reached.vref))
                                for (const auto& id : {root.manifest, root.layout, root.blob, root.recipe})
                                  if (id) ids.insert(*id);
                            });
  cli::check_needed(!ids.empty());
  std::vector<std::string> names;
  for (const auto& id : ids) names.push_back(id.hex());
  return names;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto named = call.all("--vat");
  if (std::any_of(named.begin(), named.end(), vat::is_remote)) {
    if (named.size() > 1)
      throw base::Error(base::Category::usage, "which vat? of those that --vat names one is on another host",
                        "one --vat at a time");
    for (const auto& option : cli::fetch_options())
      if (const auto name = cli::long_name(option); call.has(name))
        throw base::Error(base::Category::usage, name + ": nothing is fetched for a vat on another host");
    return cli::gc_there(named[0], list_needed(call), call, output);
  }
  auto options = cli::gc_options_of(call);
  const auto reach = reach_options_of(call);
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
  const auto look = [&] {
    for (const auto& [path, opened] : shrubs) {
      auto& source = *opened.source;
      shrub::for_each_reached(path, reach, [&](const shrub::ReachedVref& reached) {
        for (const auto& root : shrub::roots_of(reached.vref)) {
          if (!roots.emplace(root.id(), root.detail()).second) continue;
          base::named(reached.place(), [&] { vat::add_live(source, root, live); });
        }
        output.progress("live", live.size(), 0);
      });
    }
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
  for (auto& option : cli::fetch_options()) options.push_back(std::move(option));
  return {
      "gc",
      "Take away from a vat what no vref needs",
      "Finds what the vrefs need, as `reachable` does, and takes the rest away from the writable vat, as "
      "`vat gc` does: packs of which nothing is needed are condemned by one run, and deleted by the first "
      "that comes the grace period later, if nothing has come to need them. Name all shrubs that use the "
      "vat: what others need is not known.\n\n"
      "A vref, commit or text that cannot be read ends it (exit 8), and nothing is deleted.\n\n"
      "Of a vat that --vat names by ssh:// the `vat` of that host takes it away.",
      {{"SHRUB", cli::Argument::Count::some, "all shrubs that use the vat", cli::Completion::directory}},
      options,
      {{"shrub gc deps.shrub", "every week"},
       {"shrub gc -n deps.shrub", "what it would do"},
       {"shrub gc --vat ssh://host/srv/deps.vat deps.shrub", "the same on another host"}},
      {4, 5, 6, 7, 8, 9, 10, 11, 12},
      run};
}

}  // namespace shrub_cli
