#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/layout.h"
#include "formats/text/recipe.h"
#include "shrub/cli/verbs.h"
#include "shrub/repository.h"
#include "vat/maps.h"
#include "vat/served.h"

namespace shrub_cli {

using base::Category;
using base::Error;

shrub::UserSettings user_settings(const cli::Call& call, cli::Output& output) {
  return {cli::config_directory(), cli::peer_options(call, output), cli::add_credentials,
          call.has("--offline")};
}

shrub::Vats open_vats(const shrub::Shrub& shrub, const cli::Call& call, cli::Output& output) {
  return shrub::open_vats(shrub, call.all("--vat"), call.all("--from"), user_settings(call, output));
}

std::vector<vat::Lease> hold_leases(const shrub::Vats& vats) {
  std::vector<vat::Lease> leases;
  for (const auto& local : vats.local) leases.emplace_back(*local);
  return leases;
}

void report_peers(const shrub::Vats& vats, cli::Output& output) {
  if (vats.peers == nullptr) return;
  for (const auto& peer : vats.peers->report()) {
    if (peer.requests == 0) continue;
    output.detail(peer.name + ": " + base::counted(peer.requests, "request") + ", " +
                  base::human_size(peer.received) + (peer.trouble.empty() ? "" : "; " + peer.trouble));
  }
}

shrub::Vats open_writable_vats(const shrub::Shrub& shrub, const cli::Call& call, cli::Output& output) {
  auto vats = open_vats(shrub, call, output);
  if (vats.writable == nullptr && vats.write_failure) throw Error(*vats.write_failure);
  if (vats.writable == nullptr)
    throw Error(Category::usage, shrub.root() + "/VAT.json: no vat is marked \"write\": true",
                "name one: --vat DIR");
  return vats;
}

namespace {

struct Revised {
  std::string path, revision;
};

/// Whether a path, which need not exist, lies in a shrub.
bool is_in_shrub(const std::string& path) {
  std::error_code failure;
  for (auto at = std::filesystem::absolute(path).lexically_normal();; at = at.parent_path()) {
    if (std::filesystem::exists(at / shrub::kVatListFile, failure)) return true;
    if (at == at.root_path()) return false;
  }
}

/// Takes `@REV` off what lies in a shrub, unless there is something of the whole name. Other parts of a path
/// may have an @, too.
Revised split_revision(const std::string& text) {
  std::error_code absent;
  const auto exists = [&](const std::string& path) {
    return std::filesystem::exists(path, absent) ||
           std::filesystem::exists(path + shrub::kVrefSuffix, absent);
  };
  if (text.find('@') == std::string::npos || exists(text)) return {text, {}};
  std::size_t last = std::string::npos;
  for (auto at = text.rfind('@'); at != std::string::npos && at > 0; at = text.rfind('@', at - 1)) {
    if (text.compare(at, 2, "@{") == 0) continue;  // part of a revision
    if (!is_in_shrub(text.substr(0, at))) continue;
    if (exists(text.substr(0, at))) return {text.substr(0, at), text.substr(at + 1)};
    if (last == std::string::npos) last = at;
  }
  // A shrub that is not there any more, in a commit that has it.
  if (last == std::string::npos && !is_in_shrub(text)) last = text.rfind('@');
  if (last == std::string::npos) return {text, {}};
  return {text.substr(0, last), text.substr(last + 1)};
}

}  // namespace

cli::Option revision_option() {
  return {"--rev", "REV", "as that commit of the git repository has it (or SHRUB@REV)"};
}

NamedShrub find_shrub(const std::string& path, const cli::Call& call, const std::string& otherwise) {
  auto [bare, revision] = call.has("--rev") ? Revised{path, call.get("--rev")} : split_revision(path);
  if (revision.empty()) revision = otherwise;
  auto shrub = revision.empty() ? shrub::Shrub::find(bare) : shrub::Shrub::find_at(bare, revision);
  auto below = shrub.relative(bare);
  return {std::move(shrub), std::move(below)};
}

NamedVref find_named(const std::string& path, const cli::Call& call, const std::string& otherwise) {
  auto [shrub, entry] = find_shrub(path, call, otherwise);
  if (entry.ends_with(shrub::kVrefSuffix)) entry.resize(entry.size() - 5);
  if (!formats::is_safe_path(entry) || entry == ".")
    throw Error(Category::usage, path + ": not the name of a vref");
  return {std::move(shrub), std::move(entry)};
}

NamedVref find_written(const std::string& path) {
  // x.vref@HEAD means a commit also where x.vref is not there; x.vref@2.vref is a name.
  if (const auto at = path.rfind('@'); at != std::string::npos && !path.ends_with(shrub::kVrefSuffix) &&
                                       path.substr(0, at).ends_with(shrub::kVrefSuffix))
    throw Error(Category::usage, path + ": a commit cannot be written to");
  auto shrub = shrub::Shrub::find(path);
  auto entry = shrub.relative(path);
  if (entry.ends_with(shrub::kVrefSuffix)) entry.resize(entry.size() - 5);
  if (!formats::is_safe_path(entry) || entry == ".")
    throw Error(Category::usage, path + ": not the name of a vref");
  return {std::move(shrub), std::move(entry)};
}

unsigned jobs(const cli::Call& call) {
  return static_cast<unsigned>(call.number("--jobs", 0, 1, 256));
}

vat::AddOptions add_options(const cli::Call& call) {
  vat::AddOptions options;
  options.threads = jobs(call);
  options.level = static_cast<int>(call.number("--level", formats::kDefaultLevel, 1, 19));
  options.dry_run = call.has("--dry-run");
  return options;
}

void tell_oddities(const shrub::Shrub& shrub, const std::string& below, cli::Output& output) {
  std::vector<std::string> links;
  const auto entries = shrub.entries(below, &links);
  for (const auto& link : links)
    output.warning(formats::escape(link) +
                   ": a symbolic link is no vref, and is passed over: copy what it leads to");
  if (shrub::has_secret_trusted(cli::config_directory()))
    output.warning(cli::config_directory() + "/trust.json: has a URL with a login: take that line out of it");
  for (const auto& entry : entries)
    for (const auto& name : formats::secrets_of(shrub.read(entry)))
      output.warning(
          entry + shrub::kVrefSuffix + ": \"" + name +
          "\" in its provenance holds a login or a token: take it out (adding it again does) and commit "
          "that; history keeps it, so let it be of no use any more");
}

void note_served(vat::Vat& vat, const shrub::Shrub& shrub) {
  vat::note_served(vat, {shrub.root(), shrub::find_common_directory(shrub.root())});
}

Addition begin_addition(const cli::Call& call, cli::Output& output, const std::string& argument) {
  auto named = find_written(call.get(argument));
  auto before = named.shrub.find_vref(named.entry);
  named.shrub.require_free(named.entry);
  auto vats = open_writable_vats(named.shrub, call, output);
  Addition addition{std::move(named),
                    std::move(vats),
                    std::move(before),
                    add_options(call),
                    cli::format_time(cli::current_time()),
                    std::nullopt};
  if (!addition.options.dry_run) {
    addition.lease.emplace(addition.vat(), true);
    note_served(addition.vat(), addition.named.shrub);
  }
  return addition;
}

void finish_addition(const Addition& addition, formats::Vref vref, const vat::AddSummary& summary,
                     cli::Output& output, bool only_news, const formats::json::Object& provenance) {
  const auto& [named, vats, before, options, time, lease] = addition;
  vref.object_format = vats.writable->object_format();
  if (before) {
    vref.unknown = before->unknown;
    if (!vref.trace) vref.trace = before->trace;  // most of it is of what is still there
  }
  // What was known of other content says nothing of this.
  if (before && before->manifest == vref.manifest && before->blob == vref.blob)
    vref.provenance = before->provenance;
  for (const auto& [key, value] : provenance) formats::json::set(vref.provenance, key, value);
  formats::json::set(vref.provenance, "added", time);
  formats::remove_secrets(vref);
  bool changed = false;
  if (options.dry_run) {
    changed = named.shrub.would_write(named.entry, vref);
  } else {
    vat::write_map(*vats.writable, {vref.manifest, vref.layout, vref.blob, vref.recipe});
    changed = named.shrub.write(named.entry, vref);
  }
  if (only_news && !changed) return;
  const auto name = named.entry + shrub::kVrefSuffix;
  if (!output.json())
    return output.message(name + (changed ? "" : " unchanged") + ": " +
                          (vref.entries ? base::counted(*vref.entries, "entry", "entries") + ", " : "") +
                          base::human_size(vref.size) + ", " + base::human_size(summary.new_size) + " new, " +
                          base::human_size(summary.stored_size) + " stored");
  formats::json::Object record;
  for (const auto& [key, id] : {std::pair{"manifest", vref.manifest},
                                {"layout", vref.layout},
                                {"tree", vref.tree},
                                {"blob", vref.blob},
                                {"recipe", vref.recipe}})
    if (id) record.emplace_back(key, id->hex());
  record.emplace_back("size", vref.size);
  if (vref.entries) record.emplace_back("entries", *vref.entries);
  record.insert(record.end(),
                {{"new", summary.new_size}, {"stored", summary.stored_size}, {"changed", changed}});
  cli::add_path(record, "vref", name);
  output.record("add", std::move(record));
}

chunker::Parameters profile_for(const std::optional<formats::Vref>& before, vat::BlobSource& source,
                                const vat::Vat& writable) {
  if (!before) return writable.parameters();
  try {
    auto recipe = before->recipe;
    if (before->layout) {
      formats::LayoutReader layout(source.read(*before->layout), source.object_format(),
                                   [&](const base::ObjectId& id) { return source.read(id); });
      base::ObjectId blob, first;
      if (layout.next(blob, first)) recipe = first;
    }
    if (!recipe) return writable.parameters();
    const auto header = formats::find_recipe_header(source.read(*recipe), source.object_format());
    return (header ? chunker::find_parameters(header->chunker) : std::nullopt)
        .value_or(writable.parameters());
  } catch (const Error& error) {
    if (error.category() != Category::not_found && error.category() != Category::corrupt) throw;
    return writable.parameters();  // what was there is lost; nothing is left to be consistent with
  }
}

std::unique_ptr<wedge::StatCache> open_stat_cache(base::ObjectFormat format) {
  return std::make_unique<wedge::StatCache>(cli::cache_directory(), format,
                                            shrub::trusted_times(cli::config_directory()));
}

void tell_unvouched(const wedge::StatCache& cache, cli::Output& output) {
  for (const auto& [system, files, size] : cache.unvouched()) {
    const auto where = system.point.empty() ? std::string("one file system")
                                            : system.type + " at " + formats::escape(system.point);
    const auto why = system.name != 0 ? "their times are in whole seconds" : system.why;
    output.message("files on " + where + " are read each time: " + std::to_string(files) + " of them, " +
                   base::human_size(size) + " (" + why + "; shrub trust --times)");
  }
}

cli::Option spot_check_option() {
  return {"--spot-check", "N%", "read that share of the known files all the same, another share each time"};
}

wedge::SpotCheck spot_check(const cli::Call& call, wedge::StatCache& cache, const std::string& top) {
  if (!call.has("--spot-check")) return {};
  const auto percent = static_cast<unsigned>(call.percentage("--spot-check", 100));
  struct stat info;
  if (::stat(top.c_str(), &info) != 0) return {percent, 0};  // nothing is there to be read
  return {percent, cache.next_turn(wedge::state_of(info))};
}

std::vector<cli::Option> fidelity_options() {
  return {{"--owners", "", "restore and compare owners, setuid bits, ACLs and all attributes (needs root)"},
          {"--acls", "", "restore and compare access control lists"},
          {"--special", "", "restore and compare fifos and, as root, devices"}};
}

bool is_gone(const std::string& root) {
  struct stat info;
  return ::stat((root + "/" + shrub::kVatListFile).c_str(), &info) != 0 &&
         (errno == ENOENT || errno == ENOTDIR);
}

void tell_left_over(const wedge::Wedge& wedge, const std::string& place, const std::set<std::string>& present,
                    cli::Output& output) {
  std::size_t count = 0;
  std::string one;
  for (const auto& [entry, owner] : wedge.owners()) {
    struct stat info;
    if (present.contains(entry) || !is_gone(owner) || ::lstat((place + "/" + entry).c_str(), &info) != 0)
      continue;
    if (count++ == 0) one = formats::escape(entry) + " of " + formats::escape(owner);
  }
  if (count > 0)
    output.warning(base::counted(count, "entry", "entries") + " of shrubs that are gone, such as " + one +
                   ": nothing updates or removes what they made; delete it if nobody needs it");
}

wedge::Fidelity fidelity(const cli::Call& call, cli::Output& output) {
  const bool root = ::geteuid() == 0;
  if (call.has("--owners") && !root)
    output.warning("only root can set owners: they are neither restored nor compared");
  const bool owners = call.has("--owners") && root;
  return {owners, owners || call.has("--acls"), call.has("--special"), call.has("--special") && root,
          wedge::is_shared(call.get("WEDGE"))};
}

void print_difference(cli::Output& output, const std::string& entry, const wedge::Difference& difference) {
  const auto path = difference.path == "." ? entry : entry + "/" + difference.path;
  if (output.json()) {
    formats::json::Object record{{"kind", wedge::to_string(difference.kind)}};
    cli::add_path(record, "path", path);
    if (!difference.detail.empty()) record.emplace_back("detail", formats::escape(difference.detail));
    output.record("difference", std::move(record));
    return;
  }
  output.line(std::string(wedge::to_string(difference.kind)) + " " + formats::escape(path) +
              (difference.detail.empty() ? "" : " (" + difference.detail + ")"));
}

}  // namespace shrub_cli
