#include "wedge/tree_diff.h"

#include <unordered_set>

#include "formats/text/layout.h"
#include "formats/text/recipe.h"

namespace wedge {
namespace {

using base::ObjectId;
using formats::Row;
using Kind = TreeChange::Kind;

Kind kind_of_change(const Row& before, const Row& after) {
  if (before.type != after.type) return Kind::type;
  const bool same_content =
      before.size == after.size && before.blob == after.blob && before.target == after.target;
  return same_content ? Kind::metadata : Kind::content;
}

void add_recipe(vat::BlobSource& source, const ObjectId& recipe, Parts& parts) {
  formats::RecipeReader reader(source.read(recipe), source.object_format(),
                               [&](const ObjectId& id) { return source.read(id); });
  for (formats::RecipeItem item; reader.next(item);)
    if (item.type != formats::RecipeItem::Type::hole) parts.emplace(item.id, item.size);
}

}  // namespace

std::string_view to_string(Kind kind) noexcept {
  static constexpr const char* kNames[] = {"added", "removed", "type", "content", "metadata"};
  return kNames[static_cast<std::size_t>(kind)];
}

void diff_manifests(vat::BlobSource& before_source, const ObjectId& before, vat::BlobSource& after_source,
                    const ObjectId& after, const std::function<void(const TreeChange&)>& on_change) {
  if (before == after) return;
  auto left = read_manifest(before_source, before), right = read_manifest(after_source, after);
  Row a, b;
  bool have_a = left.next(a), have_b = right.next(b);
  while (have_a || have_b) {
    const int order = !have_a ? 1 : !have_b ? -1 : formats::compare_paths(a.path, b.path);
    if (order < 0) on_change({Kind::removed, a.path});
    if (order > 0) on_change({Kind::added, b.path});
    if (order == 0 && a != b) on_change({kind_of_change(a, b), b.path});
    if (order <= 0) have_a = left.next(a);
    if (order >= 0) have_b = right.next(b);
  }
}

void add_parts(vat::BlobSource& source, const EntryRoot& root, Parts& parts) {
  if (root.type != EntryRoot::Type::tree) {
    if (root.recipe)
      add_recipe(source, *root.recipe, parts);
    else
      parts.emplace(*root.blob, root.size);
    return;
  }
  std::unordered_set<ObjectId> chunked;
  formats::LayoutReader layout(source.read(*root.layout), source.object_format(),
                               [&](const ObjectId& id) { return source.read(id); });
  for (ObjectId blob, recipe; layout.next(blob, recipe);) {
    chunked.insert(blob);
    add_recipe(source, recipe, parts);
  }
  auto manifest = read_manifest(source, *root.manifest);
  for (Row row; manifest.next(row);)
    if (row.type == Row::Type::file && !chunked.contains(row.blob)) parts.emplace(row.blob, row.size);
}

}  // namespace wedge
