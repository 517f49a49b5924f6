#include "cli/peers.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_shrub(call.get("SHRUB"), call);
  const auto& shrub = named.shrub;
  const auto vats = open_vats(shrub, call, output);
  wedge::CompareOptions options;
  options.threads = jobs(call);
  options.read_content = !call.has("--quick");
  const auto cache = open_stat_cache(shrub.list().object_format);
  options.cache = cache.get();  // learns; nothing is taken from it
  options.spot_check = {100, 0};
  options.fidelity = fidelity(call, output);
  options.progress = [&](std::uint64_t done) { output.progress("verified", done, 0); };
  std::uint64_t differences = 0, count = 0;
  for (const auto& entry : shrub.entries(named.below)) {
    ++count;
    differences += wedge::verify_entry(
        *vats.source, call.get("WEDGE"), entry, shrub::entry_root(shrub.read(entry)), options,
        [&](const wedge::Difference& difference) { print_difference(output, entry, difference); });
  }
  if (output.json())
    output.record("verify", {{"entries", count}, {"differences", differences}});
  else
    output.summary(std::to_string(count) + " entries, " + std::to_string(differences) + " differences");
  return differences == 0 ? 0 : 1;
}

}  // namespace

cli::Command verify_command() {
  auto options = fidelity_options();
  options.push_back({"--quick", "", "compare sizes and times instead of reading content"});
  options.push_back(revision_option());
  for (auto& option : cli::fetch_options()) options.push_back(std::move(option));
  return {"verify",
          "Compare a wedge with a shrub",
          "Reads every file of the entries and prints each path that differs from what the vrefs say, with "
          "how: missing, extra, "
          "type, content, metadata.",
          {{"SHRUB", cli::Argument::Count::one, "a shrub, or a directory or vref in one",
            cli::Completion::directory},
           {"WEDGE", cli::Argument::Count::one, "where the entries are", cli::Completion::directory}},
          options,
          {{"shrub verify deps.shrub deps", "everything, every byte"}},
          {1, 4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
