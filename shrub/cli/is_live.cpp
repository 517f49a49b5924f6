#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>

#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/reach.h"
#include "shrub/cli/verbs.h"
#include "vat/live.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

/// Everything that the shrubs need, and the vats of this disk that have it.
struct Needed {
  vat::LiveSet live;
  std::vector<std::shared_ptr<vat::Vat>> vats;
};

Needed find_needed(const cli::Call& call, cli::Output& output) {
  Needed needed;
  auto options = reach_options_of(call, output);
  options.needs_repository = call.has("--dead") && !call.has("--worktree");
  shrub::Visited visited;
  const auto look = [&](const shrub::ReachedVref& reached, vat::BlobSource& source) {
    for (const auto& root : shrub::roots_of(reached.vref)) vat::add_live(source, root, needed.live);
  };
  for (const auto& path : call.all("SHRUB")) {
    const auto vats = open_vats(whole_shrub(path), call, output);
    shrub::for_each_reached(
        path, options, [&](const auto& reached) { look(reached, *vats.source); }, &visited);
    needed.vats.insert(needed.vats.end(), vats.local.begin(), vats.local.end());
  }
  look_at_others(needed.vats, {}, call, output, options, visited, look);
  return needed;
}

/// From the commit down to the blob; false if nothing needs it.
bool say_why(const cli::Call& call, cli::Output& output) {
  const auto wanted = call.get("--why");
  bool found = false;
  for (const auto& path : call.all("SHRUB")) {
    const auto vats = open_vats(shrub::Shrub::find(path), call, output);
    const auto id = base::ObjectId::parse(vats.source->object_format(), wanted);
    if (!id) throw Error(Category::usage, "--why: '" + wanted + "' is no id");
    shrub::for_each_reached(path, reach_options_of(call, output), [&](const shrub::ReachedVref& reached) {
      if (found) return;
      for (const auto& root : shrub::roots_of(reached.vref)) {
        vat::LiveSet live;
        vat::add_live(*vats.source, root, live);
        if (!live.contains(*id)) continue;
        found = true;
        const auto holder = vat::find_holder(*vats.source, root, *id);
        if (output.json()) {
          formats::json::Object record{{"where", reached.where}, {"root", root.id().hex()}};
          if (holder) record.emplace_back("recipe", holder->hex());
          record.emplace_back("id", id->hex());
          cli::add_path(record, "vref", reached.path);
          output.record("why", std::move(record));
        } else {
          output.line(reached.where + " " + formats::escape(reached.path) + " " + root.id().hex() +
                      (holder ? " " + holder->hex() : "") + " " + id->hex());
        }
        return;
      }
    });
  }
  return found;
}

int run(const cli::Call& call, cli::Output& output) {
  if (call.has("--why")) return say_why(call, output) ? 0 : 1;
  const bool dead = call.has("--dead");
  const auto grace = static_cast<std::int64_t>(call.duration("--grace", 14 * 24 * 3600));
  const auto now = static_cast<std::int64_t>(std::time(nullptr));
  const auto needed = find_needed(call, output);
  const auto format = needed.vats.empty() ? base::ObjectFormat::sha256 : needed.vats.front()->object_format();
  const auto is_live = [&](const std::string& line) {
    if (const auto id = base::ObjectId::parse(format, line)) return needed.live.contains(*id);
    return std::any_of(needed.vats.begin(), needed.vats.end(),
                       [&](const auto& vat) { return vat::is_live_file(*vat, line, needed.live); });
  };
  std::vector<std::map<std::string, std::int64_t>> condemned;
  for (const auto& vat : needed.vats) condemned.push_back(vat::condemned_files(*vat));
  const auto is_condemned = [&](const std::string& line) {
    // A map of what is dead is only in the way; ids are no files.
    if (call.has("--now") || line.starts_with("cache/map/") || base::ObjectId::parse(format, line))
      return true;
    return std::any_of(condemned.begin(), condemned.end(), [&](const auto& files) {
      const auto since = files.find(line);
      return since != files.end() && now - since->second >= grace;
    });
  };
  // A file that no vat here has is not known to be dead.
  if (needed.vats.empty()) throw Error(Category::usage, "no vat on this disk: --vat DIR");
  bool any = false;
  std::string line;
  base::Buffer buffer(std::size_t{64} << 10);
  const auto answer = [&] {
    if (line.empty()) return;
    const bool live = is_live(line);
    if (dead ? !live && is_condemned(line) : live) {
      if (output.json()) {
        formats::json::Object record;
        cli::add_path(record, "line", line);
        output.record("line", std::move(record));
      } else {
        output.line(line);
      }
      any = true;
    }
    line.clear();
  };
  while (const auto size = base::read_some(STDIN_FILENO, buffer))
    for (const char c : base::as_chars(base::Bytes(buffer).first(size))) {
      if (c == '\n' || c == '\0')
        answer();
      else if (line.push_back(c); line.size() > 4096)
        throw Error(Category::usage, "a line of more than 4096 bytes");
    }
  if (!line.empty()) throw Error(Category::refused, "what is asked is cut off in its last line");
  return any ? 0 : 1;
}

}  // namespace

cli::Command is_live_command() {
  auto options = reach_options();
  options.insert(
      options.begin(),
      {{"--dead", "", "print those that nothing needs; packs only if `gc` condemned them long enough ago"},
       {"--now", "", "with --dead: packs that are not condemned too"},
       {"--grace", "DURATION", "with --dead: how long ago (default 14d)"},
       {"--why", "ID", "print what needs that id instead: commit, vref, root, recipe"}});
  for (auto& option : cli::fetch_options()) options.push_back(std::move(option));
  return {"is-live",
          "Say which ids or files of a vat are needed",
          "Reads ids, or names of files as `vat ls --files` prints them, one a line, and prints those that "
          "some vref "
          "needs, as `reachable` finds them. A file is needed if something in it is. Exit 1 if none is "
          "printed.\n\n"
          "What cannot be read ends it (exit 8).",
          {{"SHRUB", cli::Argument::Count::some, "all shrubs that use the vat", cli::Completion::directory}},
          options,
          {{"vat --vat deps.vat ls --files | shrub is-live --dead deps.shrub | ssh host 'cd deps.vat && "
            "xargs -r rm'",
            "delete on another host what `shrub gc` here condemned two weeks ago"},
           {"vat --vat deps.vat ls --files | shrub is-live deps.shrub >files",
            "then: rsync --files-from=files …"},
           {"shrub is-live --why ID deps.shrub", "who needs it"}},
          {1, 4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
