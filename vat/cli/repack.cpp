#include "vat/repack.h"

#include <ctime>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

std::vector<cli::Option> options_of_repack() {
  return {{"--auto", "", "only packs that are small, if there are many"},
          {"--level", "N", "compress everything anew at this zstd level, 1 to 19"},
          {"--grace", "DURATION", "how long old packs stay (default 14d)"},
          cli::dry_run_option()};
}

std::string time_of(std::int64_t seconds) {
  for (const auto& [length, name] : {std::pair{86400, "day"}, {3600, "hour"}, {60, "minute"}})
    if (seconds % length == 0) return base::counted(static_cast<std::uint64_t>(seconds / length), name);
  return base::counted(static_cast<std::uint64_t>(seconds), "second");
}

int run(const cli::Call& call, cli::Output& output) {
  if (const auto name = named_vat(call); vat::is_remote(name))
    return cli::run_there(name, {"repack"}, options_of_repack(), call, output);
  const auto opened = open_vat(call, output);
  vat::RepackOptions options;
  options.automatic = call.has("--auto");
  if (call.has("--level")) options.level = static_cast<int>(call.number("--level", 0, 1, 19));
  options.threads = jobs(call);
  options.now = std::time(nullptr);  // not the time that is put into results
  options.grace =
      static_cast<std::int64_t>(call.duration("--grace", static_cast<std::uint64_t>(options.grace)));
  options.dry_run = call.has("--dry-run");
  options.progress = [&](std::uint64_t done) { output.progress("repacked", done, 0); };
  const auto summary = vat::repack(*opened, options);
  if (output.json())
    output.record("repack", {{"packs", summary.packs},
                             {"size", summary.size},
                             {"new-packs", summary.new_packs},
                             {"stored", summary.stored_size},
                             {"kept", summary.kept},
                             {"removed-packs", summary.removed_packs},
                             {"removed", summary.removed_size}});
  else if (summary.packs == 0 && summary.removed_packs == 0)
    output.message("nothing to repack");
  else
    output.message(
        base::counted(summary.packs, "pack") + ", " + base::human_size(summary.size) + ", rewritten as " +
        std::to_string(summary.new_packs) + ", " + base::human_size(summary.stored_size) +
        (summary.packs > 0 && options.grace > 0
             ? "; the old ones stay for " + time_of(options.grace) + ", for who reads them (--grace)"
             : "") +
        (summary.removed_packs > 0 ? "; " + base::counted(summary.removed_packs, "old pack") + " removed, " +
                                         base::human_size(summary.removed_size)
                                   : ""));
  if (summary.kept == 0) return 0;
  throw base::Error(base::Category::corrupt,
                    base::counted(summary.kept, "pack") + " with damaged blobs must stay",
                    "vat verify --repair");
}

}  // namespace

cli::Command repack_command() {
  return {
      "repack",
      "Merge packs, compress them anew",
      "Writes what is in the packs into new ones and marks the old ones, which the next repack removes once "
      "the time of --grace has passed: so copies being taken and readers at work miss nothing. With --auto "
      "only small packs are merged, and only when there are many. Without --level groups of some size are "
      "copied as they are.\n\n"
      "DURATION is a number of seconds, or one with s, m, h or d.\n\n"
      "For a vat that ssh:// leads to, the `vat` of that host does it.",
      {},
      options_of_repack(),
      {{"vat --vat deps.vat repack --auto", "after many small adds; cheap when there is nothing to do"},
       {"vat --vat deps.vat repack --level 19 --grace 0", "for what is written once and read often"}},
      {4, 6, 8, 10, 11, 12},
      run};
}

}  // namespace vat_cli
