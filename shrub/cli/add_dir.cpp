#include <fcntl.h>

#include <filesystem>
#include <sstream>

#include "cli/environment.h"
#include "cli/holes.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/worker_pool.h"
#include "shrub/cli/verbs.h"
#include "vat/delta.h"
#include "wedge/scanner.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

/// At most 1 MiB; may be a pipe.
std::string read_patterns(const std::string& path) {
  const auto fd = base::open_at(AT_FDCWD, path, O_RDONLY);
  std::string text((std::size_t{1} << 20) + 1, '\0');
  text.resize(base::read_some(fd.get(), {reinterpret_cast<std::byte*>(text.data()), text.size()}));
  if (text.size() > std::size_t{1} << 20) throw Error(Category::refused, path + ": larger than 1 MiB");
  return text;
}

/// Why a pattern matches nothing, or not what it seems to; nullptr if there is no reason.
const char* find_fault(const std::string& pattern) {
  const auto within = "/" + pattern + (pattern.ends_with('/') ? "" : "/");
  if (within.find("/./") != std::string::npos || within.find("/../") != std::string::npos)
    return "matches nothing: paths begin below DIR, without . and ..";
  if (pattern.find("//") != std::string::npos) return "matches nothing: no path has an empty part";
  if (pattern.find("**") != std::string::npos) return "is the same as with one *, which stands for no /";
  return nullptr;
}

std::vector<std::string> patterns(const cli::Call& call, cli::Output& output) {
  auto all = call.all("--exclude");
  for (const auto& pattern : all)
    if (pattern.empty()) throw Error(Category::usage, "--exclude: an empty pattern");
  for (const auto& file : call.all("--exclude-from")) {
    auto text = read_patterns(file);
    if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);  // a byte order mark
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      // As git has it: blanks at the end, and the CR of other systems, are none of the pattern's.
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t') &&
             !(line.size() > 1 && line[line.size() - 2] == '\\'))
        line.pop_back();
      if (!line.empty() && line[0] != '#') all.push_back(line);
    }
  }
  for (const auto& pattern : all)
    if (const auto* fault = find_fault(pattern))
      output.warning("pattern '" + formats::escape(pattern) + "' " + fault);
  return all;
}

}  // namespace

int add_dir(const cli::Call& call, cli::Output& output, bool only_news) {
  const auto path = call.get("DIR");
  const auto addition = begin_addition(call, output);
  if (!std::filesystem::is_directory(path) && std::filesystem::exists(path))
    throw Error(Category::usage, path + ": not a directory", "shrub add");
  const auto top = base::open_directory(AT_FDCWD, path);
  std::optional<vat::Root> old;  // as it is before this add, which may be of the same vref
  if (const auto from = call.find("--delta-from")) {
    const auto [shrub, entry] = find_named(*from, call);
    old = shrub::entry_root(shrub.read(entry)).content();
  }

  const auto cache = open_stat_cache(addition.vat().object_format());
  wedge::ScanOptions scan;
  scan.cache = cache.get();
  scan.spot_check = spot_check(call, *cache, path);
  scan.always_hash = call.all("--always-hash");
  scan.on_silent_change = [&](const std::string& changed) {
    output.warning(formats::escape(changed) + ": its content changed, though its size and times did not");
  };
  scan.threads = jobs(call);
  scan.parameters = profile_for(addition.before, *addition.vats.source, addition.vat());
  scan.exclude = patterns(call, output);
  scan.max_holes = cli::allowed_holes(call, scan.max_holes);
  scan.one_file_system = call.has("--one-file-system");
  std::size_t wedges = 0;
  scan.on_wedge_state = [&](const std::string&) { ++wedges; };
  scan.all_xattrs = call.has("--all-xattrs");
  scan.keep_going = call.has("--keep-going");
  if (call.has("--normalize")) {
    if (!cli::find_variable("SOURCE_DATE_EPOCH"))
      throw Error(Category::usage,
                  "--normalize takes the time of all files from SOURCE_DATE_EPOCH, which is not set");
    scan.normalize = wedge::Normalize{{cli::current_time(), 0}};
  }
  scan.skip_directories = {addition.vat().path()};
  scan.on_problem = [&](const std::string&, const Error& problem) { output.warning(problem.what()); };
  scan.progress = [&](std::uint64_t done) { output.progress("added", done, 0); };

  const auto vat_state = addition.vat().states().now;  // what the scan relies on
  vat::Adder adder(addition.vat(), addition.options);
  const auto ids = base::named(
      path, [&] { return wedge::add_tree(top.get(), addition.vat().object_format(), adder, scan); });
  base::WorkerPool beside(1);
  auto remembered = beside.submit([&] { cache->flush(); });
  const auto summary = adder.finish();

  formats::Vref vref;
  vref.manifest = ids.manifest;
  vref.layout = ids.layout;
  vref.tree = ids.tree;
  vref.size = ids.size;
  vref.entries = ids.entries;
  finish_addition(addition, std::move(vref), summary, output, only_news);
  if (!only_news) tell_unvouched(*cache, output);
  if (!only_news && wedges > 0)
    output.message("the state of " + base::counted(wedges, "wedge") + " (.shrub) was left out");
  remembered.wait();
  if (old && old->id() != ids.manifest && !addition.options.dry_run) {
    const auto delta = vat::make_delta(addition.vat(), *old, {ids.manifest, ids.layout, {}, {}}, {});
    output.detail(delta.file + ": " + base::human_size(delta.stored_size));
  }
  if (!addition.options.dry_run) cache->set_stored([&] { return addition.vat().mark_state(vat_state); });
  return ids.partial ? 3 : 0;
}

std::vector<cli::Option> add_dir_options() {
  return {
      {"--exclude", "PATTERN", "leave out what matches; may be repeated", cli::Completion::none, true},
      {"--exclude-from", "FILE", "patterns, one a line; # begins a comment", cli::Completion::file, true},
      {"--one-file-system", "", "of mounted file systems take the directories they are mounted at, empty"},
      {"--all-xattrs", "", "record all extended attributes, not only user.*, ACLs and capabilities"},
      {"--normalize", "", "time from SOURCE_DATE_EPOCH, owner 0, plain modes, no user attributes"},
      {"--delta-from", "VREF",
       "make a delta from that root (of this vref: from what it was), as `vat delta` does",
       cli::Completion::file},
      {"--keep-going", "", "pass over what cannot be read, exit 3"},
      {"--level", "N", "zstd level, 1 to 19 (default 3)"},
      {"--always-hash", "PATTERN", "read what matches, though it looks unchanged; may be repeated",
       cli::Completion::none, true},
      spot_check_option(),
      cli::holes_option()};
}

cli::Command add_dir_command() {
  auto options = add_dir_options();
  options.push_back(cli::dry_run_option());
  return {
      "add-dir",
      "Store a directory and write its vref",
      "Stores the tree below DIR in the writable vat and writes VREF, which pins it. When the command ends, "
      "both survive power loss. Adding an unchanged tree leaves the vref untouched, and reads no file that "
      "looks "
      "unchanged.\n\n"
      "PATTERN is a shell glob: without / it is matched against names at any depth, with / against the path "
      "below DIR; a trailing / makes it match directories only.",
      {{"DIR", cli::Argument::Count::one, "the tree", cli::Completion::directory},
       {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
      options,
      {{"shrub add-dir build/sdk deps.shrub/sdk.vref", "one tree"},
       {"shrub add-dir --exclude '*.o' --exclude .git/ src deps.shrub/src.vref",
        "without what can be made again"}},
      {3, 5, 8, 10, 11},
      [](const cli::Call& call, cli::Output& output) { return add_dir(call, output, false); }};
}

}  // namespace shrub_cli
