#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"
#include "vat/mirror.h"

namespace vat_cli {
namespace {

vat::MirrorSide side_of(const std::string& name) {
  if (vat::is_remote(name)) return {{}, cli::address_of(name)};
  return {name.starts_with("file://") ? name.substr(7) : name, {}};
}

int run(const cli::Call& call, cli::Output& output) {
  vat::MirrorOptions options;
  options.peers = cli::peer_options(call, output);
  options.scratch = cli::scratch_places();
  options.dry_run = call.has("--dry-run");
  options.progress = [&](std::uint64_t done) { output.progress("copied", done, 0); };
  const auto summary = vat::mirror(side_of(call.get("SRC")), side_of(call.get("DST")), options);
  if (output.json())
    output.record("sync", {{"packs", summary.packs},
                           {"others", summary.others},
                           {"size", summary.size},
                           {"damaged", summary.damaged}});
  else
    output.message(base::counted(summary.packs, "pack") + ", " + base::counted(summary.others, "other file") +
                   ", " + base::human_size(summary.size) + " copied");
  return summary.damaged == 0 ? 0 : static_cast<int>(base::Category::corrupt);
}

}  // namespace

cli::Command sync_command() {
  return {"sync",
          "Make a vat hold all that another does",
          "Copies the files of SRC that DST does not have: packs, each proven against its name, hand-filled "
          "blobs, maps, and the "
          "list of packs last. Nothing is removed. A DST that does not exist is made. Static hosts cannot be "
          "written, and of "
          "those only packs can be found. Copying the files with rsync, rclone, scp or cp does as well.",
          {{"SRC", cli::Argument::Count::one, "a vat: a directory, http, https, s3 or ssh",
            cli::Completion::directory},
           {"DST", cli::Argument::Count::one, "a vat: a directory, s3 or ssh", cli::Completion::directory}},
          {cli::limit_rate_option(), cli::retry_for_option(), cli::dry_run_option()},
          {{"vat sync deps.vat s3://bucket/deps.vat", "publish a whole vat"},
           {"vat sync https://example.org/deps.vat /mnt/usb/deps.vat", "take one along"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace vat_cli
