#include <fcntl.h>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/vref/vref.h"
#include "vat/cli/verbs.h"
#include "vat/delta.h"

namespace vat_cli {
namespace {

vat::Root root_of(const std::string& file, base::ObjectFormat format) {
  return base::named(file, [&]() -> vat::Root {
    const auto vref = formats::parse_vref(base::read_file(AT_FDCWD, file, formats::kMaxVref));
    if (vref.object_format != format)
      throw base::Error(
          base::Category::usage,
          "its object format is " + std::string(base::to_string(vref.object_format)) + ", not the vat's");
    return {vref.manifest, vref.layout, vref.blob, vref.recipe};
  });
}

int run(const cli::Call& call, cli::Output& output) {
  const auto opened = open_vat(call, output);
  vat::DeltaOptions options;
  options.level = static_cast<int>(call.number("--level", static_cast<std::uint64_t>(options.level), 1, 19));
  options.dry_run = call.has("--dry-run");
  options.progress = [&](std::uint64_t done) { output.progress("compared", done, 0); };
  const auto summary = vat::make_delta(*opened, root_of(call.get("FROM"), opened->object_format()),
                                       root_of(call.get("TO"), opened->object_format()), options);
  if (output.json()) {
    formats::json::Object record{
        {"blobs", summary.blobs}, {"size", summary.size}, {"stored", summary.stored_size}};
    cli::add_path(record, "file", summary.file);
    output.record("delta", std::move(record));
  } else {
    output.message(base::counted(summary.blobs, "blob") + ", " + base::human_size(summary.size) + ", " +
                   base::human_size(summary.stored_size) + " stored in " + summary.file);
  }
  return 0;
}

}  // namespace

cli::Command delta_command() {
  return {"delta",
          "Make a patch from one root to another",
          "Writes into cache/delta of the vat what the root of the vref TO needs and that of FROM has not, "
          "compressed against "
          "what lies at the same path, or near the same offset of an image. Whoever has FROM gets TO by it, "
          "in a request or two, "
          "if that is less than what is new. It can be removed at any time.",
          {{"FROM", cli::Argument::Count::one, "a vref file", cli::Completion::file},
           {"TO", cli::Argument::Count::one, "another", cli::Completion::file}},
          {{"--level", "N", "zstd level, 1 to 19 (default 19)"}, cli::dry_run_option()},
          {{"vat --vat deps.vat delta old/gcc.vref new/gcc.vref", "before the vat is published"}},
          {4, 5, 8, 10, 11},
          run};
}

}  // namespace vat_cli
