#include <fcntl.h>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/pack/pack.h"
#include "formats/text/trace.h"
#include "shrub/cli/verbs.h"
#include "vat/maps.h"

namespace shrub_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.get("FILE");
  const auto addition = begin_addition(call, output);
  const auto& [named, entry] = addition.named;
  if (!addition.before)
    throw base::Error(base::Category::not_found, call.get("VREF") + ": no vref", "add what it is of first");
  const auto text = base::read_file(AT_FDCWD, path, formats::kMaxPackedBlob);
  const auto format = addition.vat().object_format();
  const auto count = base::named(path, [&] { return formats::parse_trace(text, format).size(); });
  auto vref = *addition.before;
  vref.trace = base::hash_blob(format, base::as_bytes(text));
  if (!addition.options.dry_run) {
    vat::Adder adder(addition.vat(), addition.options);
    (void)adder.put(*vref.trace, formats::BlobKind::data, vat::Grouping::single, base::as_bytes(text));
    (void)adder.finish();
    vat::write_map(addition.vat(), {{}, {}, vref.trace, {}});
    (void)named.write(entry, vref);
  }
  if (output.json()) {
    formats::json::Object record{{"trace", vref.trace->hex()}, {"chunks", count}};
    cli::add_path(record, "vref", entry + shrub::kVrefSuffix);
    output.record("trace", std::move(record));
  } else {
    output.message(entry + shrub::kVrefSuffix + ": a trace of " + base::counted(count, "chunk"));
  }
  return 0;
}

}  // namespace

cli::Command add_trace_command() {
  return {
      "add-trace",
      "Keep with a vref what is read first of it",
      "Stores FILE, which --trace-out of mount, nbd or boot wrote, and names it in VREF: whoever mounts or "
      "boots it from then on "
      "fetches that first, in that order, before it is asked for. It stays when the vref is added to "
      "again.",
      {{"FILE", cli::Argument::Count::one, "the trace", cli::Completion::file},
       {"VREF", cli::Argument::Count::one, "a vref that is there", cli::Completion::file}},
      {cli::dry_run_option()},
      {{"shrub boot --trace-out trace images.shrub/debian.vref", "first a run that is written down"},
       {"shrub add-trace trace images.shrub/debian.vref", "then everybody else's starts sooner"}},
      {5, 8, 10, 11},
      run};
}

}  // namespace shrub_cli
