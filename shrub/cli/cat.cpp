#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/text/layout.h"
#include "shrub/cli/verbs.h"
#include "vat/content.h"
#include "wedge/tree_writer.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::Row;

/// The recipe that the layout has for a blob.
std::optional<ObjectId> find_recipe(vat::BlobSource& source, const ObjectId& layout, const ObjectId& blob) {
  formats::LayoutReader reader(source.read(layout), source.object_format(),
                               [&](const ObjectId& id) { return source.read(id); });
  ObjectId listed, recipe;
  while (reader.next(listed, recipe))
    if (listed == blob) return recipe;
  return std::nullopt;
}

Row find_row(vat::BlobSource& source, const ObjectId& manifest, std::string path, const std::string& entry) {
  while (path.starts_with("./")) path.erase(0, 2);
  Row found;
  bool seen = false;
  // Hard links name an earlier path, so one pass for the row and one for what it is linked to.
  for (int pass = 0; pass < 2; ++pass) {
    auto reader = wedge::read_manifest(source, manifest);
    seen = false;
    for (Row row; !seen && reader.next(row);) {
      seen = row.path == path;
      if (seen) found = row;
    }
    if (!seen || found.type != Row::Type::hard_link) break;
    path = found.target;
  }
  if (!seen) throw Error(Category::not_found, entry + ": no path " + formats::escape(path) + " in the tree");
  return found;
}

}  // namespace

NamedContent find_content(vat::BlobSource& source, const formats::Vref& vref,
                          const std::optional<std::string>& path, const std::string& entry) {
  if (vref.type != formats::Vref::Type::tree) {
    if (path)
      throw Error(Category::usage,
                  entry + ": a " + std::string(formats::to_string(vref.type)) + ", which has no paths");
    return {vref.blob, vref.recipe, {}};
  }
  if (!path)
    throw Error(Category::usage, entry + ": a tree; which path of it?", "shrub ls " + entry + ".vref");
  const auto row = find_row(source, *vref.manifest, *path, entry);
  if (row.type == Row::Type::symlink) return {{}, {}, row.target};
  if (row.type != Row::Type::file) throw Error(Category::usage, *path + ": not a file");
  return {row.blob, find_recipe(source, *vref.layout, row.blob), {}};
}

namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_named(call.get("VREF"), call);
  const auto vref = named.shrub.read(named.entry);
  const auto vats = open_vats(named.shrub, call, output);
  const auto write = [&](base::Bytes bytes) { output.write(bytes); };
  const auto content = find_content(*vats.source, vref, call.find("PATH"), named.entry);
  if (!content.target.empty())
    output.line(content.target);
  else
    vat::stream_pinned(*vats.source, content.blob, content.recipe, write);
  return 0;
}

}  // namespace

cli::Command cat_command() {
  auto options = cli::fetch_options();
  options.insert(options.begin(), revision_option());
  return {"cat",
          "Print a file of a tree, or a file's content",
          "Prints the content of PATH in the tree that VREF pins, or of the file or image that VREF pins, "
          "every chunk proven. For a "
          "symlink, its target.",
          {{"VREF", cli::Argument::Count::one, "a vref", cli::Completion::file},
           {"PATH", cli::Argument::Count::optional, "a path in the tree"}},
          options,
          {{"shrub cat deps.shrub/gcc.vref bin/gcc | file -", "look at one file"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
