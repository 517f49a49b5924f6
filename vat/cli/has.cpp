#include <iostream>

#include "formats/base/error.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto opened = open_source(call, output);
  bool all = true;
  for (const auto& text : call.all("ID")) {
    const auto id = base::ObjectId::require(opened->object_format(), text);
    const bool there = opened->find(id).has_value() || !opened->find_recipes(id).empty();
    all = all && there;
    if (output.json())
      output.record("has", {{"blob", id.hex()}, {"present", there}});
    else if (!there)
      output.line(id.hex());
  }
  return all ? 0 : 1;
}

}  // namespace

cli::Command has_command() {
  return {"has",
          "Say whether ids are in the vat",
          "Exits 0 if every ID is in the vat, as a blob or as content that a recipe describes; else prints "
          "those that are "
          "not and exits 1. Bytes are not read; verify does that.",
          {{"ID", cli::Argument::Count::some, "ids of blobs"}},
          {},
          {{"vat --vat deps.vat has 2cf8d83d… && echo there", "ask before fetching"}},
          {1, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace vat_cli
