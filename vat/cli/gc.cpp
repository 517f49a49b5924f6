#include <fcntl.h>
#include <unistd.h>

#include "cli/gc.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"
#include "vat/live.h"
#include "vat/repack.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

/// Ids of roots or blobs, one a line. A list that ends within a line was cut off.
vat::LiveSet read_live(const std::string& name, vat::Vat& vat, cli::Output& output) {
  const auto fd = name == "-" ? base::UniqueFd(::dup(STDIN_FILENO)) : base::open_at(AT_FDCWD, name, O_RDONLY);
  vat::LiveSet live;
  base::Buffer buffer(std::size_t{1} << 20);
  std::string line;
  std::uint64_t count = 0;
  const auto add = [&] {
    const auto id = base::ObjectId::parse(vat.object_format(), line);
    if (!id)
      throw Error(Category::refused, name + ", line " + std::to_string(count + 1) + ": no id of " +
                                         std::string(base::to_string(vat.object_format())));
    if (!live.contains(*id)) vat::add_live(vat, *id, live);
    output.progress("live", ++count, 0);
    line.clear();
  };
  while (const auto size = base::read_some(fd.get(), buffer))
    for (const char c : base::as_chars(base::Bytes(buffer).first(size))) {
      if (c == '\n' || c == '\0')
        add();
      else if (line.push_back(c); line.size() > 200)
        throw Error(Category::refused, name + ": no list of ids");
    }
  if (!line.empty()) throw Error(Category::refused, name + ": is cut off in its last line");
  if (count == 0)
    throw Error(Category::refused, name + ": names nothing, so all of the vat would go",
                "if that is wanted, remove its directory");
  return live;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto opened = open_vat(call, output);
  auto options = cli::gc_options_of(call);
  options.progress = [&](std::uint64_t done) { output.progress("rewritten", done, 0); };
  const auto live = read_live(call.get("--live"), *opened, output);
  const auto summary =
      vat::collect_garbage(*opened, options, [&](const base::ObjectId& id) { return live.contains(id); });
  cli::print_gc(output, opened->path(), summary, options);
  return 0;
}

}  // namespace

cli::Command gc_command() {
  auto options = cli::gc_options();
  options.insert(options.begin(),
                 {"--live", "FILE", "ids of roots or blobs that are needed, one a line; - for stdin",
                  cli::Completion::file, false, true});
  return {
      "gc",
      "Take away what is not needed",
      "Reads the ids of roots, or of blobs, that are needed, finds all that they need, and condemns packs of "
      "which nothing is; of packs of which more than half is not, what is needed is written anew first. "
      "Packs that were condemned longer than the grace period ago by an earlier run, and are still not "
      "needed, are deleted. Adds and readers go on meanwhile: what is added again is stored again, and what "
      "they began to rely on stays. Hand-filled files are left alone.\n\n"
      "A root that cannot be read ends it (exit 8), and nothing is deleted. DURATION is a number of seconds, "
      "or one with s, m, h or d.",
      {},
      options,
      {{"shrub reachable deps.shrub | vat --vat deps.vat gc --live -", "for all shrubs that use the vat"},
       {"vat --vat deps.vat gc --live needed -n", "say what would be done"}},
      {4, 8, 9, 10, 11},
      run};
}

}  // namespace vat_cli
