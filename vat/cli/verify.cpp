#include "vat/verify.h"

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

int verify_ids(const cli::Call& call, cli::Output& output, vat::Vat& vat) {
  int worst = 0;
  for (const auto& text : call.all("ID")) {
    const auto id = base::ObjectId::require(vat.object_format(), text);
    std::string fault;
    try {
      vat::verify_content(vat, id);
    } catch (const Error& error) {
      if (error.category() != Category::corrupt && error.category() != Category::not_found) throw;
      worst = worst == 0 || error.category() == Category::corrupt ? error.exit_code() : worst;
      fault = error.what();
    }
    if (output.json()) {
      formats::json::Object record{{"blob", id.hex()}, {"good", fault.empty()}};
      if (!fault.empty()) cli::add_path(record, "fault", fault);
      output.record("verified", std::move(record));
    } else if (!fault.empty())
      output.line(fault);
  }
  return worst;
}

void print(cli::Output& output, const vat::Damage& damage) {
  if (output.json()) {
    formats::json::Object record{{"repaired", damage.repaired}};
    if (!damage.file.empty()) cli::add_path(record, "file", damage.file);
    cli::add_path(record, "fault", damage.what);
    if (damage.id) record.emplace_back("blob", damage.id->hex());
    output.record("damage", std::move(record));
    return;
  }
  std::string text = damage.repaired ? "repaired " : "damaged ";
  if (damage.id) text += damage.id->hex() + " ";
  if (!damage.file.empty()) text += damage.file + " ";
  output.line(text + "(" + damage.what + ")");
}

int run(const cli::Call& call, cli::Output& output) {
  const auto opened = open_vat(call, output);
  if (call.has("ID")) return verify_ids(call, output, *opened);
  vat::VerifyOptions options;
  options.threads = jobs(call);
  options.quick = call.has("--quick");
  options.repair = call.has("--repair") && !call.has("--dry-run");
  options.sample = static_cast<unsigned>(call.percentage("--sample", 100));
  options.progress = [&](std::uint64_t done) { output.progress("verified", done, 0); };
  std::unique_ptr<vat::BlobSource> from;
  if (call.has("--from")) {
    if (!call.has("--repair")) throw Error(Category::usage, "--from is for --repair");
    from = open_source(call.get("--from"), call, output);
    options.from = from.get();
  }
  const auto summary =
      vat::verify(*opened, options, [&](const vat::Damage& damage) { print(output, damage); });
  if (output.json())
    output.record("verify", {{"packs", summary.packs},
                             {"loose-files", summary.loose_files},
                             {"groups", summary.groups},
                             {"blobs", summary.blobs},
                             {"damaged", summary.damaged},
                             {"repaired", summary.repaired}});
  else
    output.summary(base::counted(summary.packs, "pack") + ", " +
                   base::counted(summary.loose_files, "hand-filled file") + ", " +
                   base::counted(summary.blobs, "blob") + " read, " + std::to_string(summary.damaged) +
                   " damaged, " + std::to_string(summary.repaired) + " repaired");
  return summary.damaged == summary.repaired ? 0 : static_cast<int>(Category::corrupt);
}

}  // namespace

cli::Command verify_command() {
  return {
      "verify",
      "Check that everything in the vat is what it should be",
      "Checks every file against its name, every blob against its id, and that recipes, manifests and "
      "layouts find all they "
      "name; prints exactly what is bad. With IDs, checks their content only.\n\n"
      "--repair makes every id readable again where another copy is known, and moves the damaged file to "
      "local/quarantine only then. A whole pack under a wrong name gets its own. Of a pack whose end is lost "
      "all that can be "
      "read is stored anew; the rest goes to the quarantine, and is reported as damaged that once. With "
      "--from it takes what has no good copy here from another vat, wherever that is.",
      {{"ID", cli::Argument::Count::any, "ids of blobs to check"}},
      {{"--quick", "", "sizes and trailers only"},
       {"--sample", "N%", "decode and hash only that share of the groups"},
       {"--repair", "", "make good what can be made good"},
       {"--from", "URL", "with --repair: take what is lost here from that vat", cli::Completion::directory},
       cli::dry_run_option()},
      {{"vat --vat deps.vat verify", "everything"}, {"vat --vat deps.vat verify --repair", "and heal it"}},
      {4, 5, 8, 10, 11},
      run};
}

}  // namespace vat_cli
