#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "cli/holes.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/checkpoints.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

using Outcome = wedge::SyncResult::Outcome;

void print_outcome(cli::Output& output, const std::string& entry, const wedge::SyncResult& result) {
  if (output.json()) {
    formats::json::Object record{{"outcome", wedge::to_string(result.outcome)},
                                 {"files", result.summary.files},
                                 {"reused", result.summary.reused_files},
                                 {"fetched", result.summary.fetched_size},
                                 {"skipped-special", result.summary.skipped_special},
                                 {"skipped-owners", result.summary.skipped_owners},
                                 {"skipped-acls", result.summary.skipped_acls},
                                 {"skipped-xattrs", result.summary.skipped_xattrs},
                                 {"kept-otherwise", result.summary.kept_otherwise}};
    cli::add_path(record, "entry", entry);
    output.record("entry", std::move(record));
    return;
  }
  if (result.outcome == Outcome::unchanged) return output.detail(entry + " unchanged");
  std::string text = entry + " " + std::string(wedge::to_string(result.outcome));
  if (result.summary.files > 0)
    text += ": " + base::counted(result.summary.files, "file") + ", " +
            std::to_string(result.summary.reused_files) + " reused, " +
            base::human_size(result.summary.fetched_size) + " written";
  output.message(text);
  const auto tell = [&](std::uint64_t count, const std::string& one, const std::string& many,
                        const std::string& what) {
    if (count > 0) output.message(entry + ": " + base::counted(count, one, many) + what);
  };
  tell(result.summary.skipped_special, "device or fifo", "devices and fifos", " left out (--special)");
  tell(result.summary.skipped_owners, "path", "paths",
       " without owner, setuid bit or capabilities (--owners)");
  tell(result.summary.skipped_acls, "path", "paths", " without access control list (--acls)");
  tell(result.summary.skipped_xattrs, "extended attribute", "extended attributes", " could not be set");
  tell(result.summary.kept_otherwise, "path", "paths",
       " not with the mode, time, owner or link that it should have: the file system keeps no such");
}

/// What a dry run says of what would be fetched.
void print_travel(cli::Output& output, const vat::PeerSet::Travel& travel) {
  if (travel.size == 0 && travel.unknown == 0) return;
  if (output.json()) {
    formats::json::Object record{{"size", travel.size}, {"requests", travel.requests}};
    if (travel.unknown > 0) record.emplace_back("unknown", travel.unknown);
    cli::add_path(record, "from", travel.from);
    return output.record("travel", std::move(record));
  }
  output.message("would fetch " + base::human_size(travel.size) + " in about " +
                 base::counted(travel.requests, "request") + ", from " + travel.from +
                 (travel.unknown > 0 ? " first; of " + base::counted(travel.unknown, "blob") +
                                           " it is not known where they lie"
                                     : ""));
}

/// What overlays stand on comes before them; the rest stays as it is.
void order_overlays(std::vector<std::pair<std::string, wedge::EntryRoot>>& roots) {
  std::map<std::string, std::string> below;
  for (const auto& [entry, root] : roots)
    if (root.below) below.emplace(entry, root.below->entry);
  const auto depth_of = [&](std::string entry) {
    std::size_t depth = 0;
    for (auto next = below.find(entry); next != below.end() && depth < below.size();
         next = below.find(next->second))
      ++depth;
    return depth;
  };
  std::stable_sort(roots.begin(), roots.end(),
                   [&](const auto& a, const auto& b) { return depth_of(a.first) < depth_of(b.first); });
}

/// What lies in a shrub is taken for vrefs of it, what lies in a vat for its files.
void refuse_place(const std::string& wedge) {
  std::error_code error;
  for (auto place = std::filesystem::weakly_canonical(wedge, error); !error; place = place.parent_path()) {
    for (const auto* name : {shrub::kVatListFile, "vat.json"})
      if (std::filesystem::exists(place / name, error))
        throw base::Error(
            base::Category::refused,
            wedge + ": " + place.string() + " holds " + name + ", so it is no place for a wedge",
            "name a directory beside it");
    if (place == place.parent_path()) return;
  }
}

int run(const cli::Call& call, cli::Output& output) {
  refuse_place(call.get("WEDGE"));
  const auto named = find_shrub(call.get("SHRUB"), call);
  const auto& shrub = named.shrub;
  const auto& below = named.below;
  const auto entries = shrub.entries(below);
  const auto vats = open_vats(shrub, call, output);
  const auto leases = call.has("--dry-run") ? std::vector<vat::Lease>() : hold_leases(vats);
  if (vats.writable != nullptr && !call.has("--dry-run")) {
    try {
      note_served(*vats.writable, shrub);
    } catch (const base::Error& error) {  // whoever reads it need not be able to write in it
      if (error.category() != base::Category::local && error.category() != base::Category::refused) throw;
    }
  }
  wedge::SyncOptions options;
  options.threads = jobs(call);
  if (call.has("--shared") && !call.has("--dry-run")) wedge::share(call.get("WEDGE"));
  options.fidelity = fidelity(call, output);
  options.fidelity.shared |= call.has("--shared");
  options.keep_extra = call.has("--keep-extra");
  options.overwrite = call.has("--overwrite");
  options.in_place = call.has("--in-place");
  options.dry_run = call.has("--dry-run");
  options.allow_holes = cli::allowed_holes(call, 0);
  options.scratch = cli::scratch_places(call.get("WEDGE"));
  std::uint64_t total = 0, before = 0;
  auto roots = shrub::entry_roots(shrub, entries);
  tell_oddities(shrub, below, output);
  for (const auto& [entry, root] : roots) total += root.size;
  order_overlays(roots);
  vat::PeerSet::Travel travel;
  if (options.dry_run && vats.peers != nullptr)
    options.on_reading = [&](const vat::Expected& expected) {
      const auto one = vats.peers->estimate(expected);
      travel.size += one.size;
      travel.requests += one.requests;
      travel.unknown += one.unknown;
      if (travel.from.empty()) travel.from = one.from;
    };
  std::uint64_t here = 0;  // more than its size if it is an archive
  options.progress = [&](std::uint64_t done) {
    here = done;
    output.progress("synced", before + done, total);
  };

  const auto cache = open_stat_cache(shrub.list().object_format);
  options.spot_check = spot_check(call, *cache, call.get("WEDGE"));
  wedge::Wedge place(call.get("WEDGE"), options.dry_run, cache.get(),
                     [&](const std::string& text) { output.warning(text); });
  bool blocked = false, by_extra = false, by_changed = false;
  const auto tell = [&](const std::string& entry, const wedge::SyncResult& result) {
    print_outcome(output, entry, result);
    for (const auto& difference : result.in_the_way) {
      print_difference(output, entry, difference);
      (difference.kind == wedge::Difference::Kind::extra ? by_extra : by_changed) = true;
    }
    blocked = blocked || result.outcome == Outcome::blocked;
  };
  // What the shrub no longer has goes, if this sync covers it and made it; first, so that a new entry can
  // take its place.
  const std::set<std::string> present(entries.begin(), entries.end());
  options.is_next = [&](const std::string& entry) { return present.contains(entry); };
  for (const auto& [entry, owner] : place.owners()) {
    const bool covered = below == "." || entry == below || entry.starts_with(below + "/");
    if (!covered) continue;
    if (owner == shrub.root()) {
      if (!present.contains(entry)) tell(entry, place.remove(entry, options));
    } else if (present.contains(entry) && is_gone(owner) && !options.dry_run) {
      place.give(entry, shrub.root());
    }
  }
  std::optional<base::Error> failure;
  std::string told;               ///< of the first failure, without what failed
  std::vector<std::string> same;  ///< entries that failed for the same reason as the first
  std::size_t unchanged = 0;
  for (const auto& [entry, root] : roots) {
    try {
      const auto result = place.sync(*vats.source, entry, root, shrub.root(), options);
      tell(entry, result);
      if (result.outcome == Outcome::unchanged) ++unchanged;
    } catch (const base::Error& error) {
      // What is wrong with one entry is no reason to leave the others as they are.
      const auto category = error.category();
      if (category == base::Category::local || category == base::Category::busy ||
          category == base::Category::internal)
        throw;
      // Why no peer has it is told once.
      const std::string text = error.what();
      const auto from = text.find(": http");
      const auto why = from != std::string::npos        ? text.substr(from)
                       : text.starts_with(entry + ": ") ? text.substr(entry.size())
                                                        : text;
      if (failure && why == told)
        same.push_back(entry);
      else if (failure)
        output.warning(text);
      if (!failure) {
        failure = error;
        told = why;
      }
    }
    before += std::max(root.size, std::exchange(here, 0));
  }
  tell_unvouched(*cache, output);
  tell_left_over(place, call.get("WEDGE"), present, output);
  report_peers(vats, output);
  print_travel(output, travel);
  if (failure && same.empty()) throw base::Error(*failure);
  if (failure)
    throw base::Error(
        failure->category(),
        failure->what() + ("; for the same reason: " + formats::escape(same.front())) +
            (same.size() > 1 ? " and " + base::counted(same.size() - 1, "other entry", "other entries") : ""),
        failure->hint());
  if (const auto received = vats.peers != nullptr ? vats.peers->received() : 0;
      received > 0 && !output.json())
    output.message(base::human_size(received) + " came from other hosts" +
                   (options.dry_run ? ", to find that out" : ""));
  if (!output.json() && unchanged == roots.size())
    output.message(base::counted(unchanged, "entry", "entries") + ", unchanged");
  if (blocked && by_changed)
    output.warning(
        "what is there was changed since sync made it, or sync did not make it: --overwrite replaces it and "
        "leaves "
        "it in .shrub/old");
  else if (blocked)
    output.warning(options.keep_extra
                       ? "paths that sync did not make are in the way, and the new tree has others of their "
                         "names: move them away, or --overwrite leaves them in .shrub/old"
                       : "paths that sync did not make are in the way: --keep-extra takes them over, "
                         "--overwrite leaves them in .shrub/old");
  return blocked ? 1 : 0;
}

}  // namespace

cli::Command sync_command() {
  auto options = fidelity_options();
  options.insert(
      options.end(),
      {{"--keep-extra", "",
        "paths that sync did not make move over into the new tree, unless it has others of their names"},
       {"--overwrite", "", "paths that sync did not make, or that were changed, do not stop it"},
       {"--in-place", "", "change entries where they lie, path by path, not as a whole"},
       {"--shared", "", "let the group of WEDGE sync it, too: it may do from now on what the owner may"},
       revision_option(),
       spot_check_option(),
       cli::holes_option(),
       cli::dry_run_option()});
  for (auto& option : cli::fetch_options()) options.push_back(std::move(option));
  return {
      "sync",
      "Make a wedge hold what a shrub says",
      "Makes each vref x/t.vref at or below SHRUB the entry WEDGE/x/t: a tree, a file or an image. Every "
      "byte is proven. "
      "Each entry changes atomically; its previous state stays under WEDGE/.shrub/old until it changes "
      "again. Entries whose "
      "vref is gone are moved there too. Unchanged entries are left alone, unchanged files are taken "
      "over.\n\n"
      "Paths in an entry that sync did not make, and files changed since, are listed and nothing is done "
      "to that entry "
      "(exit 1), but for __pycache__ and *.pyc, which move over.\n\n"
      "With --in-place a tree that is as sync left it gets only what changed, and an image only the extents "
      "that changed. "
      "Nothing is put in place before all of it is there and durable; a sync that was interrupted is "
      "finished by the next. Readers may see old and new paths side by side, and old only has what was "
      "replaced; without reflinks it shares its unchanged files with the entry, so it is no copy of what was "
      "there before somebody wrote into them.",
      {{"SHRUB", cli::Argument::Count::one, "a shrub, or a directory or vref in one",
        cli::Completion::directory},
       {"WEDGE", cli::Argument::Count::one, "where the entries go", cli::Completion::directory}},
      options,
      {{"shrub sync deps.shrub deps", "everything"},
       {"shrub sync deps.shrub/toolchains deps", "a part"},
       {"shrub sync deps.shrub@v1.2 deps", "as a tag of the repository has it"}},
      {1, 4, 5, 6, 7, 8, 10, 11, 12},
      run};
}

}  // namespace shrub_cli
