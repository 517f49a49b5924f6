#include "formats/base/file.h"
#include "shrub/cli/verbs.h"
#include "vat/ingest.h"

namespace shrub_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.get("DISK");
  const auto addition = begin_addition(call, output);
  vat::Adder adder(addition.vat(), addition.options);
  const auto image =
      vat::ingest_image(path, adder, profile_for(addition.before, *addition.vats.source, addition.vat()),
                        call.has("--git-id"), [&](std::uint64_t done) { output.progress("added", done, 0); });
  const auto summary = adder.finish();

  formats::Vref vref;
  vref.type = formats::Vref::Type::image;
  vref.blob = image.blob;
  vref.recipe = image.recipe;
  vref.size = image.size;
  finish_addition(addition, std::move(vref), summary, output);
  return 0;
}

}  // namespace

cli::Command add_image_command() {
  return {"add-image",
          "Store a disk image and write its vref",
          "Stores DISK, a raw disk image, in the writable vat and writes VREF, which pins it. Holes and long "
          "runs of zeros "
          "cost nothing, and sync makes them holes again.",
          {{"DISK", cli::Argument::Count::one, "the image, a regular file", cli::Completion::file},
           {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
          {{"--git-id", "", "name the content as git does as well, which hashes all of it"},
           {"--level", "N", "zstd level, 1 to 19 (default 3)"},
           cli::dry_run_option()},
          {{"shrub add-image debian.raw images.shrub/debian.vref", "one image"}},
          {5, 8, 10, 11},
          run};
}

}  // namespace shrub_cli
