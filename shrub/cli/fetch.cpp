#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/verbs.h"
#include "shrub/git_state.h"
#include "shrub/reachability.h"
#include "vat/copy.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

/// An entry and the roots of all it needs: its content first, then its trace.
struct Wanted {
  std::string entry;
  std::vector<vat::Root> roots;
};

std::vector<Wanted> find_there(const NamedShrub& named) {
  std::vector<Wanted> wanted;
  for (const auto& entry : named.shrub.entries(named.below))
    wanted.push_back({entry, shrub::roots_of(named.shrub.read(entry))});
  return wanted;
}

/// Adds the vrefs that are staged or were committed where the shrub lies.
void add_committed(const cli::Call& call, const NamedShrub& named, std::vector<Wanted>& wanted,
                   cli::Output& output) {
  if (!named.shrub.commit().empty()) throw Error(Category::usage, "--all: of all commits, not of one");
  shrub::ReachOptions options;
  options.worktree = options.reflog = false;
  options.on_note = [&](const std::string& text) { output.warning(text); };
  const auto place = shrub::place_in_repository(named.shrub.root());  // others there have vats of their own
  shrub::for_each_reached(call.get("SHRUB"), options, [&](const shrub::ReachedVref& reached) {
    if (place.empty() || reached.path.starts_with(place + "/"))
      wanted.push_back({reached.place(), shrub::roots_of(reached.vref)});
  });
}

std::vector<Wanted> find_wanted(const cli::Call& call, const NamedShrub& named, cli::Output& output) {
  auto wanted = find_there(named);
  if (call.has("--all")) add_committed(call, named, wanted, output);
  return wanted;
}

cli::Option all_option() {
  return {"--all", "", "what any commit needs, as `shrub reachable` has it, not only what lies there"};
}

int run_fetch(const cli::Call& call, cli::Output& output) {
  const auto named = find_shrub(call.get("SHRUB"), call);
  const auto vats = open_vats(named.shrub, call, output);
  const auto wanted = find_wanted(call, named, output);
  if (call.has("--unpin")) {
    if (call.has("--pin")) throw Error(Category::usage, "--pin and --unpin exclude each other");
    if (vats.peers != nullptr)
      for (const auto& [entry, roots] : wanted)
        for (const auto& root : roots) vats.peers->unpin(root);
    return 0;
  }
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto& [entry, roots] = wanted[i];
    output.progress("fetched", before, 0);
    if (vats.peers != nullptr)
      base::named(entry, [&, &all = roots] {
        for (const auto& root : all) vats.peers->fetch({root, {}, {}, true}, call.has("--pin"));
      });
    const auto received = vats.peers != nullptr ? vats.peers->received() : 0;
    if (output.json()) {
      formats::json::Object record{{"received", received - before}};
      cli::add_path(record, "entry", entry);
      output.record("entry", std::move(record));
    }
    before = received;
  }
  report_peers(vats, output);
  if (const auto room = cli::peer_options(call, output).cache_size; before > room && !call.has("--pin"))
    output.warning("the cache keeps " + base::human_size(room) +
                   " (VAT_CACHE_SIZE): some of what was fetched is gone again");
  output.message(base::counted(wanted.size(), "entry", "entries") + " here, " + base::human_size(before) +
                 " fetched");
  return 0;
}

int run_push(const cli::Call& call, cli::Output& output) {
  const auto named = find_shrub(call.get("SHRUB"), call);
  const auto user = user_settings(call, output);
  const auto vats = open_vats(named.shrub, call, output);
  const auto wanted = find_wanted(call, named, output);
  tell_oddities(named.shrub, named.below, output);
  std::vector<vat::Root> roots;
  for (const auto& one : wanted) roots.insert(roots.end(), one.roots.begin(), one.roots.end());
  vat::CopyOptions options;
  options.add = add_options(call);
  options.progress = [&](std::uint64_t done) { output.progress("pushed", done, 0); };
  const auto profile = vats.writable != nullptr ? vats.writable->parameters()
                                                : chunker::make_parameters(chunker::kDefaultExponent);
  for (const auto& url : call.all("--to")) {
    const auto full = shrub::full_name(".", url);
    vat::CopySummary summary;
    if (vat::is_remote(url)) {
      vat::PeerAddress address;
      address.url = url;
      address.may_be_local = true;  // the user named it
      cli::add_credentials(address);
      summary = base::use_scratch(cli::scratch_places(), [&](const base::ScratchPlace& place) {
        const cli::Scratch scratch(place);
        return vat::push_roots(*vats.source, roots, profile, address, user.peers, scratch.path(), options);
      });
    } else {
      const cli::LocalTarget to(full, *vats.source, profile, options.add.dry_run, user.peers);
      if (!options.add.dry_run) note_served(to.vat(), named.shrub);
      summary = vat::copy_roots(*vats.source, roots, to.vat(), options);
    }
    if (output.json()) {
      formats::json::Object record{
          {"blobs", summary.blobs}, {"size", summary.size}, {"stored", summary.stored_size}};
      cli::add_path(record, "to", url);
      output.record("push", std::move(record));
    } else {
      output.message(url + ": " + base::counted(wanted.size(), "entry", "entries") + ", " +
                     base::counted(summary.blobs, "blob") + " not there before, " +
                     base::human_size(summary.stored_size) + " stored" +
                     (call.has("--all") || shrub::find_common_directory(named.shrub.root()).empty()
                          ? ""
                          : "; of earlier commits nothing (--all)"));
    }
  }
  return 0;
}

}  // namespace

cli::Command fetch_command() {
  auto options = cli::fetch_options();
  options.insert(options.begin(),
                 {{"--pin", "", "keep it in the cache, whatever VAT_CACHE_SIZE says, until --unpin"},
                  {"--unpin", "", "let it go, and fetch nothing"},
                  all_option(),
                  revision_option()});
  return {"fetch",
          "Get the bytes of a shrub without writing a wedge",
          "Fetches everything that the vrefs at or below SHRUB need and that is not on this disk into the "
          "cache, proven. A sync "
          "with --offline then needs nobody. Run again, it fetches only the rest.",
          {{"SHRUB", cli::Argument::Count::one, "a shrub, or a directory or vref in one",
            cli::Completion::directory}},
          options,
          {{"shrub fetch deps.shrub", "before going offline"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run_fetch};
}

cli::Command push_command() {
  return {
      "push",
      "Copy the bytes of a shrub to another vat",
      "Puts everything that the vrefs at or below SHRUB need into the vat at URL, unless it is there: packs "
      "first, then maps, "
      "the list of packs last, so that no reader sees a name before its bytes. A vat is made if there is "
      "none at "
      "URL. Of earlier commits only --all sends what they need.",
      {{"SHRUB", cli::Argument::Count::one, "a shrub, or a directory or vref in one",
        cli::Completion::directory}},
      {{"--to", "URL", "the vat to write: a directory, s3 or ssh", cli::Completion::directory, true, true},
       all_option(),
       revision_option(),
       cli::limit_rate_option(),
       {"--level", "N", "zstd level, 1 to 19"},
       cli::dry_run_option()},
      {{"shrub push deps.shrub --to ssh://mirror/srv/deps.vat", "publish what a shrub needs"},
       {"shrub push --all deps.shrub --to ssh://mirror/srv/deps.vat",
        "… and what each of its commits needs"}},
      {4, 5, 6, 7, 8, 10, 11, 12},
      run_push};
}

}  // namespace shrub_cli
