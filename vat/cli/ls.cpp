#include "cli/peers.h"
#include "vat/cli/verbs.h"
#include "vat/live.h"

namespace vat_cli {
namespace {

cli::Option files_option() {
  return {"--files", "", "the files that hold it instead: packs, hand-filled files, maps, below the vat"};
}

int run(const cli::Call& call, cli::Output& output) {
  if (const auto name = named_vat(call); vat::is_remote(name))
    return cli::run_there(name, {"ls"}, {files_option()}, call, output);
  const auto opened = open_vat(call, output);
  if (call.has("--files")) {
    for (const auto& file : vat::list_files(*opened)) {
      if (!output.json()) {
        output.line(file);
        continue;
      }
      formats::json::Object record;
      cli::add_path(record, "file", file);
      output.record("file", std::move(record));
    }
    return 0;
  }
  const auto print = [&](const base::ObjectId& id, std::uint64_t size, std::string_view kind,
                         const base::ObjectId* recipe) {
    if (!output.json()) return output.line(id.hex() + " " + std::to_string(size) + " " + std::string(kind));
    formats::json::Object record{{"blob", id.hex()}, {"size", size}, {"kind", kind}};
    if (recipe != nullptr) record.emplace_back("recipe", recipe->hex());
    output.record("blob", std::move(record));
  };
  opened->list(
      [&](const base::ObjectId& id, const vat::StoredBlob& blob) {
        print(id, blob.size, formats::to_string(blob.kind), nullptr);
      },
      [&](const base::ObjectId& id, const vat::RecipeClaim& claim) {
        print(id, claim.size, "content", &claim.recipe);
      });
  return 0;
}

}  // namespace

cli::Command ls_command() {
  return {
      "ls",
      "List what is in the vat",
      "Prints id, size and kind of every stored blob in the order of ids, then of all content that recipes "
      "describe "
      "(kind content). Kinds: data, recipe, manifest, layout, skeleton, piece.\n\n"
      "For a vat that ssh:// leads to, the `vat` of that host does it.",
      {},
      {files_option()},
      {{"vat --vat deps.vat ls", "everything"},
       {"vat --vat deps.vat ls --files | shrub is-live --dead deps.shrub", "packs that could go"},
       {"vat --vat deps.vat ls | awk '{ n += $2 } END { print n }'", "how many bytes before compression"}},
      {6, 10, 11, 12},
      run};
}

}  // namespace vat_cli
