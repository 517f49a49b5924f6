#include <fcntl.h>

#include <sstream>

#include "cli/environment.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/verbs.h"
#include "wedge/scanner.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

std::vector<std::string> patterns(const cli::Call& call) {
  auto all = call.all("--exclude");
  for (const auto& file : call.all("--exclude-from")) {
    std::istringstream lines(base::read_file(AT_FDCWD, file, std::size_t{1} << 20));
    for (std::string line; std::getline(lines, line);)
      if (!line.empty() && line[0] != '#') all.push_back(line);
  }
  return all;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_named(call.get("VREF"));
  const auto vats = open_writable_vats(named.shrub, call, output);
  const auto before = named.shrub.find_vref(named.entry);
  const auto path = call.get("DIR");
  const auto top = base::open_directory(AT_FDCWD, path);

  wedge::ScanOptions scan;
  scan.threads = jobs(call);
  scan.parameters = profile_for(before, *vats.source, *vats.writable);
  scan.exclude = patterns(call);
  scan.one_file_system = call.has("--one-file-system");
  scan.keep_going = call.has("--keep-going");
  if (call.has("--normalize")) {
    if (!cli::find_variable("SOURCE_DATE_EPOCH"))
      throw Error(Category::usage,
                  "--normalize takes the time of all files from SOURCE_DATE_EPOCH, which is not set");
    scan.normalize = wedge::Normalize{{cli::current_time(), 0}};
  }
  scan.skip_directories = {vats.writable->path()};
  scan.on_problem = [&](const std::string&, const Error& problem) { output.warning(problem.what()); };
  scan.progress = [&](std::uint64_t done) { output.progress("added", done, 0); };

  const auto options = add_options(call);
  vat::Adder adder(*vats.writable, options);
  const auto ids = base::named(
      path, [&] { return wedge::add_tree(top.get(), vats.writable->object_format(), adder, scan); });
  const auto summary = adder.finish();

  formats::Vref vref;
  vref.object_format = vats.writable->object_format();
  vref.manifest = ids.manifest;
  vref.layout = ids.layout;
  vref.tree = ids.tree;
  vref.size = ids.size;
  vref.entries = ids.entries;
  const bool changed = record_added(named, std::move(vref), before, *vats.writable, options.dry_run);
  if (output.json()) {
    formats::json::Object record{{"manifest", ids.manifest.hex()}, {"layout", ids.layout.hex()},
                                 {"tree", ids.tree.hex()},         {"size", ids.size},
                                 {"entries", ids.entries},         {"new", summary.new_size},
                                 {"stored", summary.stored_size},  {"changed", changed}};
    cli::add_path(record, "vref", named.entry + shrub::kVrefSuffix);
    output.record("add", std::move(record));
  } else {
    output.message(named.entry + shrub::kVrefSuffix + (changed ? "" : " unchanged") + ": " +
                   std::to_string(ids.entries) + " entries, " + base::human_size(ids.size) + ", " +
                   base::human_size(summary.new_size) + " new, " + base::human_size(summary.stored_size) +
                   " stored");
  }
  return ids.partial ? 3 : 0;
}

}  // namespace

cli::Command add_dir_command() {
  return {
      "add-dir",
      "Store a directory and write its vref",
      "Stores the tree below DIR in the writable vat and writes VREF, which pins it. When the command ends, "
      "both survive power "
      "loss. Adding an unchanged tree leaves the vref untouched.\n\n"
      "PATTERN is a shell glob: without / it is matched against names at any depth, with / against the path "
      "below DIR; a "
      "trailing / makes it match directories only.",
      {{"DIR", cli::Argument::Count::one, "the tree", cli::Completion::directory},
       {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
      {{"--exclude", "PATTERN", "leave out what matches; may be repeated", cli::Completion::none, true},
       {"--exclude-from", "FILE", "patterns, one a line; # begins a comment", cli::Completion::file, true},
       {"--one-file-system", "", "do not go into mounted file systems"},
       {"--normalize", "", "time from SOURCE_DATE_EPOCH, owner 0, plain modes, no user attributes"},
       {"--keep-going", "", "pass over what cannot be read, exit 3"},
       {"--level", "N", "zstd level, 1 to 19 (default 3)"},
       cli::dry_run_option()},
      {{"shrub add-dir build/sdk deps.shrub/sdk.vref", "one tree"},
       {"shrub add-dir --exclude '*.o' --exclude .git/ src deps.shrub/src.vref",
        "without what can be made again"}},
      {3, 5, 8, 10, 11},
      run};
}

}  // namespace shrub_cli
