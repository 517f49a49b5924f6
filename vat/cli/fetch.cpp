#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"
#include "vat/copy.h"

namespace vat_cli {
namespace {

std::vector<vat::Root> roots_of(vat::BlobSource& source, const cli::Call& call) {
  std::vector<vat::Root> roots;
  for (const auto& text : call.all("ID"))
    roots.push_back(vat::root_of(source, base::ObjectId::require(source.object_format(), text)));
  return roots;
}

void print(const cli::Call& call, cli::Output& output, const std::string& type,
           const vat::CopySummary& summary) {
  if (output.json()) {
    output.record(type, {{"blobs", summary.blobs}, {"size", summary.size}, {"stored", summary.stored_size}});
    return;
  }
  output.message(base::counted(call.all("ID").size(), "root") + ", " + base::counted(summary.blobs, "blob") +
                 " not there before, " + base::human_size(summary.size) + ", " +
                 base::human_size(summary.stored_size) + " stored");
}

vat::CopyOptions copy_options(const cli::Call& call, cli::Output& output, const std::string& what) {
  return {add_options(call), [&output, what](std::uint64_t done) { output.progress(what, done, 0); }};
}

int run_fetch(const cli::Call& call, cli::Output& output) {
  const auto to = open_vat(call, output);
  const auto from = open_source(call.get("--from"), call, output);
  print(call, output, "fetch",
        vat::copy_roots(*from, roots_of(*from, call), *to, copy_options(call, output, "fetched")));
  return 0;
}

int run_push(const cli::Call& call, cli::Output& output) {
  const auto from = open_vat(call, output);
  const auto url = call.get("--to");
  const auto roots = roots_of(*from, call);
  const auto options = copy_options(call, output, "pushed");
  if (vat::is_remote(url)) {
    print(call, output, "push",
          base::use_scratch(cli::scratch_places(), [&](const base::ScratchPlace& place) {
            const cli::Scratch scratch(place);
            return vat::push_roots(*from, roots, from->parameters(), cli::address_of(url),
                                   cli::peer_options(call, output), scratch.path(), options);
          }));
    return 0;
  }
  const cli::LocalTarget to(url, *from, from->parameters(), options.add.dry_run,
                            cli::peer_options(call, output));
  print(call, output, "push", vat::copy_roots(*from, roots, to.vat(), options));
  return 0;
}

std::vector<cli::Option> options_with(cli::Option place) {
  return {std::move(place),
          cli::limit_rate_option(),
          cli::retry_for_option(),
          {"--level", "N", "zstd level, 1 to 19"},
          cli::dry_run_option()};
}

}  // namespace

cli::Command fetch_command() {
  return {"fetch",
          "Copy what ids need from another vat",
          "Puts into the vat all that each ID needs and that is not there: the blob, the recipe and its "
          "chunks, or everything a "
          "manifest names. Every byte is proven. Run again, it gets only the rest.",
          {{"ID", cli::Argument::Count::some, "ids of blobs, files, recipes, manifests"}},
          options_with({"--from", "URL", "the vat that has them: a directory, http, https, s3 or ssh",
                        cli::Completion::directory, false, true}),
          {{"vat --vat deps.vat fetch 2cf8d83d… --from https://example.org/deps.vat",
            "one file and all it is made of"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run_fetch};
}

cli::Command push_command() {
  return {"push",
          "Copy what ids need to another vat",
          "Puts all that each ID needs into the other vat, unless it is there: packs first, then maps, the "
          "list of packs last, "
          "so that no reader sees a name before its bytes. A vat is made if there is none at URL.",
          {{"ID", cli::Argument::Count::some, "ids of blobs, files, recipes, manifests"}},
          options_with({"--to", "URL", "the vat to write: a directory, s3 or ssh", cli::Completion::directory,
                        false, true}),
          {{"vat --vat deps.vat push 2cf8d83d… --to s3://bucket/deps.vat", "one file and all it is made of"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run_push};
}

}  // namespace vat_cli
