#include <algorithm>
#include <set>

#include "formats/base/file.h"
#include "shrub/checkpoints.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

using State = wedge::EntryStatus::State;

void print(cli::Output& output, const std::string& entry, std::string_view state) {
  if (output.json()) {
    formats::json::Object record{{"state", state}};
    cli::add_path(record, "entry", entry);
    return output.record("entry", std::move(record));
  }
  output.line(std::string(state) + " " + formats::escape(entry));
}

/// What is on this machine of the vats, if there is an image: what it was made of may have to be looked up.
std::shared_ptr<vat::BlobSource> find_source(
    const shrub::Shrub& shrub, const std::vector<std::pair<std::string, wedge::EntryRoot>>& roots,
    const cli::Call& call, cli::Output& output) {
  if (std::none_of(roots.begin(), roots.end(),
                   [](const auto& root) { return root.second.type == wedge::EntryRoot::Type::image; }))
    return nullptr;
  auto user = user_settings(call, output);
  user.offline = true;
  try {
    return shrub::open_vats(shrub, {}, {}, user).source;
  } catch (const base::Error& error) {
    output.detail(std::string("images are told by their times: ") + error.what());
    return nullptr;
  }
}

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_shrub(call.get("SHRUB"), call);
  const auto entries = named.shrub.entries(named.below);
  tell_oddities(named.shrub, named.below, output);
  const auto cache = open_stat_cache(named.shrub.list().object_format);
  const auto place = call.get("WEDGE");
  const wedge::Wedge wedge(place, true, cache.get());
  wedge::SyncOptions options;
  options.threads = jobs(call);
  options.fidelity = fidelity(call, output);
  options.spot_check = spot_check(call, *cache, place);
  bool clean = true;
  const std::set<std::string> present(entries.begin(), entries.end());
  for (const auto& [entry, owner] : wedge.owners()) {
    const bool covered = named.below == "." || entry == named.below || entry.starts_with(named.below + "/");
    if (owner != named.shrub.root() || !covered || present.contains(entry)) continue;
    print(output, entry, "gone");
    clean = false;
  }
  const auto roots = shrub::entry_roots(named.shrub, entries);
  const auto source = find_source(named.shrub, roots, call, output);
  for (const auto& [entry, root] : roots) {
    const auto status = wedge.status(entry, root, options, source.get());
    if (status.state != State::clean || output.json() || call.has("--verbose"))
      print(output, entry, wedge::to_string(status.state));
    for (const auto& difference : status.differences) print_difference(output, entry, difference);
    clean = clean && status.state == State::clean;
  }
  if (clean) output.message(base::counted(entries.size(), "entry", "entries") + ", as the shrub says");
  tell_unvouched(*cache, output);
  tell_left_over(wedge, place, present, output);
  return clean ? 0 : 1;
}

}  // namespace

cli::Command status_command() {
  auto options = fidelity_options();
  options.push_back(spot_check_option());
  options.push_back(revision_option());
  return {"status",
          "Say what sync would have to do",
          "Prints each entry that is not as the shrub says: missing, outdated (as an earlier sync made it), "
          "changed (with "
          "the paths), foreign (there, but no sync made it), gone (made by sync, but the shrub has no such "
          "vref any more). "
          "Files that look unchanged are not read.",
          {{"SHRUB", cli::Argument::Count::one, "a shrub, or a directory or vref in one",
            cli::Completion::directory},
           {"WEDGE", cli::Argument::Count::one, "where the entries are", cli::Completion::directory}},
          options,
          {{"shrub status deps.shrub deps", "before a sync"}},
          {1, 8, 10, 11},
          run};
}

}  // namespace shrub_cli
