#include "cli/peers.h"
#include "formats/base/error.h"
#include "shrub/cli/verbs.h"
#include "wedge/tree_writer.h"

namespace shrub_cli {
namespace {

int list_tree(const formats::Vref& vref, vat::BlobSource& source, cli::Output& output) {
  auto reader = wedge::read_manifest(source, *vref.manifest);
  for (formats::Row row; reader.next(row);) {
    if (!output.json()) {
      output.line(formats::to_line(row));
      continue;
    }
    formats::json::Object record{{"kind", std::string(1, static_cast<char>(row.type))}};
    cli::add_path(record, "path", row.path);
    if (row.type == formats::Row::Type::file) {
      record.emplace_back("size", row.size);
      record.emplace_back("blob", row.blob.hex());
    }
    if (!row.target.empty()) cli::add_path(record, "target", row.target);
    output.record("path", std::move(record));
  }
  return 0;
}

int list_vrefs(const shrub::Shrub& shrub, const std::string& below, cli::Output& output) {
  for (const auto& entry : shrub.entries(below)) {
    const auto vref = shrub.read(entry);
    if (!output.json()) {
      output.line(std::string(formats::to_string(vref.type)) + " " + std::to_string(vref.size) + " " +
                  formats::escape(entry));
      continue;
    }
    formats::json::Object record{{"kind", formats::to_string(vref.type)}, {"size", vref.size}};
    cli::add_path(record, "entry", entry);
    output.record("vref", std::move(record));
  }
  return 0;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto [shrub, below] = find_shrub(call.get("VREF"), call);
  const auto entry = below.ends_with(shrub::kVrefSuffix) ? below.substr(0, below.size() - 5) : below;
  const auto vref = below == "." ? std::nullopt : shrub.find_vref(entry);
  if (!vref) return list_vrefs(shrub, below, output);
  if (vref->type != formats::Vref::Type::tree)
    throw base::Error(base::Category::usage, entry + ": a " + std::string(formats::to_string(vref->type)) +
                                                 ", only trees have paths");
  return list_tree(*vref, *open_vats(shrub, call, output).source, output);
}

}  // namespace

cli::Command ls_command() {
  auto options = cli::fetch_options();
  options.insert(options.begin(), revision_option());
  return {"ls",
          "List the paths of a tree, or the vrefs of a shrub",
          "For a vref of a tree: one row a path, as in its manifest (type mode uid gid mtime size ref path). "
          "For a directory: "
          "type, size and name of each vref below it.",
          {{"VREF", cli::Argument::Count::one, "a vref, or a directory of a shrub", cli::Completion::file}},
          options,
          {{"shrub ls deps.shrub/gcc.vref", "the paths of one tree"}, {"shrub ls deps.shrub", "the vrefs"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
