#include <map>
#include <set>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/verbs.h"
#include "wedge/tree_diff.h"

namespace shrub_cli {
namespace {

/// One side of the comparison.
struct Side {
  Side(const std::string& path, const cli::Call& call, cli::Output& output)
      : named(find_shrub(path, call)), vats(open_vats(named.shrub, call, output)) {
    auto vref = named.below;
    if (vref.ends_with(shrub::kVrefSuffix)) vref.resize(vref.size() - 5);
    const bool single = vref != "." && named.shrub.find_vref(vref).has_value();
    const auto prefix = single ? vref : named.below == "." ? "" : named.below + "/";
    // Entries by their names below the path given, so that a whole can be compared with another whole.
    if (single)
      entries.emplace("", vref);
    else
      for (const auto& entry : named.shrub.entries(named.below))
        entries.emplace(entry.substr(prefix.size()), entry);
  }
  [[nodiscard]] std::optional<formats::Vref> find(const std::string& name) const {
    const auto entry = entries.find(name);
    return entry == entries.end() ? std::nullopt : std::optional(named.shrub.read(entry->second));
  }

  NamedShrub named;
  shrub::Vats vats;
  std::map<std::string, std::string> entries;
};

class Comparison {
 public:
  explicit Comparison(cli::Output& output) : output_(output) {}

  void report(std::string_view kind, const std::string& entry, const std::string& path) {
    ++changes_;
    const auto full = path.empty() ? entry : entry.empty() ? path : entry + "/" + path;
    if (!output_.json()) return output_.line(std::string(kind) + " " + formats::escape(full));
    formats::json::Object record{{"kind", kind}};
    cli::add_path(record, "path", full);
    output_.record("change", std::move(record));
  }

  void compare(const std::string& entry, const formats::Vref& before, vat::BlobSource& before_source,
               const formats::Vref& after, vat::BlobSource& after_source) {
    const auto a = shrub::entry_root(before), b = shrub::entry_root(after);
    if (a == b) return;
    if (before.type != after.type) return report("type", entry, {});
    if (before.type != formats::Vref::Type::tree)
      return report(a.blob == b.blob && a.recipe == b.recipe && a.unpack == b.unpack && a.form == b.form
                        ? "metadata"
                        : "content",
                    entry, {});
    wedge::diff_manifests(before_source, *a.manifest, after_source, *b.manifest,
                          [&](const wedge::TreeChange& change) {
                            report(wedge::to_string(change.kind), entry,
                                   change.path == "." && !entry.empty() ? "" : change.path);
                          });
  }

  [[nodiscard]] std::uint64_t changes() const noexcept { return changes_; }

 private:
  cli::Output& output_;
  std::uint64_t changes_ = 0;
};

int run(const cli::Call& call, cli::Output& output) {
  const Side before(call.get("A"), call, output), after(call.get("B"), call, output);
  Comparison comparison(output);
  std::set<std::string> names;
  for (const auto* side : {&before, &after})
    for (const auto& [name, entry] : side->entries) names.insert(name);
  wedge::Parts old_parts, new_parts;
  for (const auto& name : names) {
    const auto was = before.find(name), is = after.find(name);
    if (was) wedge::add_parts(*before.vats.source, shrub::entry_root(*was), old_parts);
    if (is) wedge::add_parts(*after.vats.source, shrub::entry_root(*is), new_parts);
    if (was && is)
      comparison.compare(name, *was, *before.vats.source, *is, *after.vats.source);
    else
      comparison.report(is ? "added" : "removed", name, {});
  }
  std::uint64_t size = 0, shared = 0;
  for (const auto& [id, bytes] : new_parts) {
    size += bytes;
    if (old_parts.contains(id)) shared += bytes;
  }
  if (output.json())
    output.record("diff", {{"changes", comparison.changes()}, {"size", size}, {"shared", shared}});
  else
    output.summary(base::counted(comparison.changes(), "change") + "; " + base::human_size(shared) + " of " +
                   base::human_size(size) + " shared");
  return comparison.changes() == 0 ? 0 : 1;
}

}  // namespace

cli::Command diff_command() {
  return {"diff",
          "Say how two vrefs, or two shrubs, differ",
          "Prints each path that B adds, removes or changes (type, content, metadata), and how many of B's "
          "bytes, each "
          "distinct chunk counted once, A has as well. A and B may be at different revisions.",
          {{"A", cli::Argument::Count::one, "a vref, or a directory of a shrub; @REV may follow",
            cli::Completion::file},
           {"B", cli::Argument::Count::one, "another", cli::Completion::file}},
          cli::fetch_options(),
          {{"shrub diff deps.shrub/gcc.vref@HEAD~1 deps.shrub/gcc.vref", "what the last commit changed"},
           {"shrub diff deps.shrub@v1 deps.shrub@v2", "between two tags, all entries"}},
          {1, 4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
