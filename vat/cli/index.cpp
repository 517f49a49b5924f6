#include "formats/base/file.h"
#include "vat/cli/verbs.h"
#include "vat/maps.h"

namespace vat_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto opened = open_vat(call, output);
  const auto summary = vat::rebuild(*opened, call.has("--dry-run"));
  if (output.json())
    output.record("index", {{"packs", summary.packs}, {"blobs", summary.blobs}, {"maps", summary.maps}});
  else
    output.message(base::counted(summary.packs, "pack") + ", " + base::counted(summary.blobs, "blob") + ", " +
                   base::counted(summary.maps, "map"));
  return 0;
}

}  // namespace

cli::Command index_command() {
  return {"index",
          "Make the index anew and bring cache/ up to date",
          "Reads what lies in primary/ and makes everything that can be made from it: the local index, the "
          "list of packs and the maps under cache/ that are missing or lead nowhere. Needed after packs were "
          "copied into a vat that is published; everything else finds new packs by itself.",
          {},
          {cli::dry_run_option()},
          {{"vat --vat deps.vat index", "after rsync brought new packs"}},
          {4, 8, 10, 11},
          run};
}

}  // namespace vat_cli
