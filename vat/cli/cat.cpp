#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "vat/cli/verbs.h"
#include "vat/content.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

/// A-B, both ends included, as in HTTP; A- to the end.
vat::ByteRange parse_range(const std::string& text) {
  const auto bad = [&] { return Error(Category::usage, "--range: '" + text + "' is not A-B or A-"); };
  const auto dash = text.find('-');
  if (dash == std::string::npos) throw bad();
  const auto first = base::parse_decimal(text.substr(0, dash));
  if (!first) throw bad();
  if (dash + 1 == text.size()) return {*first, UINT64_MAX};
  const auto last = base::parse_decimal(text.substr(dash + 1));
  if (!last || *last < *first || *last == UINT64_MAX) throw bad();
  return {*first, *last - *first + 1};
}

int run(const cli::Call& call, cli::Output& output) {
  const auto range = call.has("--range") ? parse_range(call.get("--range")) : vat::ByteRange{};
  const auto opened = open_source(call, output);
  const auto id = base::ObjectId::require(opened->object_format(), call.get("ID"));
  const auto write = [&](base::Bytes bytes) { output.write(bytes); };
  if (call.has("--recipe"))
    vat::stream_recipe(*opened, id, range, write);
  else
    vat::stream_content(*opened, id, range, write);
  return 0;
}

}  // namespace

cli::Command cat_command() {
  return {"cat",
          "Print the content of an id",
          "Prints the content of ID, proven before it is printed. Content that only a recipe describes is "
          "hashed whole the "
          "first time, which is remembered; after that a range reads only the chunks it touches.",
          {{"ID", cli::Argument::Count::one, "the id of a blob"}},
          {{"--range", "A-B", "only bytes A to B, both included, counted from 0; A- to the end"},
           {"--recipe", "", "ID is a recipe: print what it describes"}},
          {{"vat --vat deps.vat cat 2cf8d83d…", "the whole content"},
           {"vat --vat deps.vat cat --range 0-511 2cf8d83d…", "its first 512 bytes"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace vat_cli
