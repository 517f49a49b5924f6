#include "vat/internal/plan.h"

#include <algorithm>
#include <set>
#include <unordered_map>

#include "formats/text/layout.h"
#include "formats/text/manifest.h"
#include "formats/text/recipe.h"

namespace vat::internal {

using base::ObjectId;
using formats::MapSection;
using formats::RecipeItem;
using formats::Row;

namespace {

/// What is there already.
class Before {
 public:
  Before(base::Buffer recipe, base::ObjectFormat format, const formats::GetText& read)
      : reader_(std::move(recipe), format, read), there_(reader_.next(item_)) {}
  /// Whether it has the item at that offset; offsets go up.
  bool has(const RecipeItem& item, std::uint64_t offset) {
    while (there_ && reader_.offset() - item_.size < offset) there_ = reader_.next(item_);
    return there_ && reader_.offset() - item_.size == offset && item_.type == item.type &&
           item_.id == item.id && item_.size == item.size && item_.offset == item.offset;
  }

 private:
  formats::RecipeReader reader_;
  RecipeItem item_;
  bool there_;
};

}  // namespace

void walk_root(base::ObjectFormat format, const Expected& root, const formats::GetText& read,
               const std::function<void(const Met&)>& visit) {
  const auto text = [&](MapSection section) {
    return [&, section](const ObjectId& id) {
      visit({section, id});
      return read(id);
    };
  };
  const auto recipe = [&](const ObjectId& id, bool is_read) {
    const auto get = text(MapSection::recipes);
    formats::RecipeReader reader(get(id), format, get);
    std::optional<Before> before;
    if (root.before) before.emplace(read(*root.before), format, read);
    for (RecipeItem item; reader.next(item);)
      if (item.type != RecipeItem::Type::hole)
        visit({MapSection::data, item.id, item.size,
               is_read && !(before && before->has(item, reader.offset() - item.size))});
  };
  if (!root.manifest) {
    if (root.recipe) return recipe(*root.recipe, true);
    return visit({MapSection::data, root.blob.value()});
  }
  std::unordered_map<ObjectId, ObjectId> recipes;
  if (root.layout) {
    const auto get = text(MapSection::layout);
    formats::LayoutReader reader(get(*root.layout), format, get);
    for (ObjectId blob, of; reader.next(blob, of);) recipes.emplace(blob, of);
  }
  const auto get = text(MapSection::manifest);
  formats::ManifestReader reader(get(*root.manifest), format, get);
  for (Row row; reader.next(row);) {
    if (row.type != Row::Type::file || !root.content) continue;
    const bool is_read = !root.is_read || root.is_read(row);
    if (const auto known = recipes.find(row.blob); known != recipes.end())
      recipe(known->second, is_read);
    else
      visit({MapSection::data, row.blob, row.size, is_read});
  }
}

const ObjectId& map_id(const Expected& root) {
  if (root.manifest) return *root.manifest;
  if (root.blob) return *root.blob;
  return root.recipe.value();
}

std::string map_file(const ObjectId& root) {
  const auto hex = root.hex();
  return "cache/map/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".zst";
}

RootMap::RootMap(base::Bytes file, base::ObjectFormat format, const ObjectId& root) {
  std::unordered_map<std::string, std::uint32_t> numbers;
  formats::read_map(file, format, root, [&](const formats::MapRun& run) {
    std::uint32_t pack = kNoPack;
    if (!run.pack.empty()) {
      const auto [known, fresh] = numbers.emplace(run.pack, static_cast<std::uint32_t>(packs_.size()));
      if (fresh) packs_.push_back(run.pack);
      pack = known->second;
    }
    sections_[static_cast<std::size_t>(run.section)].runs.push_back(
        {run.group.offset, run.group.size, pack, run.first, run.count});
  });
}

std::optional<RootMap::Place> RootMap::find(MapSection which, std::uint64_t index) {
  auto& section = sections_[static_cast<std::size_t>(which)];
  while (section.at < section.runs.size() && index - section.begin >= section.runs[section.at].count)
    section.begin += section.runs[section.at++].count;
  if (section.at == section.runs.size()) return std::nullopt;
  const auto& run = section.runs[section.at];
  if (run.pack == kNoPack) return std::nullopt;
  return Place{group_of(run), run.first + static_cast<std::uint32_t>(index - section.begin)};
}

std::vector<PackGroup> RootMap::groups_of(MapSection which, const std::string& pack,
                                          std::uint64_t size) const {
  const auto known = std::find(packs_.begin(), packs_.end(), pack);
  if (known == packs_.end()) return {};
  const auto number = static_cast<std::uint32_t>(known - packs_.begin());
  std::vector<PackGroup> groups;
  std::set<std::uint64_t> seen;
  for (const auto& run : sections_[static_cast<std::size_t>(which)].runs) {
    if (run.pack != number || !seen.insert(run.offset).second) continue;
    if (run.size > size) break;
    size -= run.size;
    groups.push_back(group_of(run));
  }
  return groups;
}

}  // namespace vat::internal
