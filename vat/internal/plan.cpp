#include "vat/internal/plan.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <utility>

#include "formats/base/error.h"
#include "formats/text/layout.h"
#include "formats/text/manifest.h"
#include "formats/text/recipe.h"

namespace vat::internal {

using base::ObjectId;
using formats::BlobKind;
using formats::MapSection;
using formats::RecipeItem;
using formats::Row;

namespace {

constexpr std::size_t kMaxRuns = std::size_t{1} << 21;  ///< of a map in memory

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

void walk_root(base::ObjectFormat format, const Expected& expected, const Walk& walk) {
  const auto& root = expected.root;
  const auto piece_of = [&](MapSection section) {
    return [&, section](const ObjectId& id) {
      walk.visit({section, BlobKind::piece, id});
      return walk.read(id);
    };
  };
  const auto text = [&](MapSection section, BlobKind kind, const ObjectId& id) {
    walk.visit({section, kind, id});
    return walk.read(id);
  };
  const auto recipe = [&](const ObjectId& id, bool is_read) {
    formats::RecipeReader reader(text(MapSection::recipes, BlobKind::recipe, id), format,
                                 piece_of(MapSection::recipes));
    if (walk.on_recipe) walk.on_recipe(id, reader.header());
    std::optional<Before> before;
    if (expected.base && expected.base->recipe)
      before.emplace(walk.read(*expected.base->recipe), format, walk.read);
    for (RecipeItem item; reader.next(item);) {
      if (item.type == RecipeItem::Type::hole) continue;
      const bool is_there = before && before->has(item, reader.offset() - item.size);
      walk.visit({MapSection::data, BlobKind::data, item.id, item.size, true, is_read && !is_there});
    }
  };
  if (!root.manifest && !root.layout) {
    if (root.recipe) return recipe(*root.recipe, true);
    return walk.visit({MapSection::data, BlobKind::data, root.blob.value()});
  }
  std::unordered_map<ObjectId, ObjectId> recipes;
  if (root.layout) {
    formats::LayoutReader reader(text(MapSection::layout, BlobKind::layout, *root.layout), format,
                                 piece_of(MapSection::layout));
    for (ObjectId blob, of; reader.next(blob, of);) recipes.emplace(blob, of);
  }
  if (!root.manifest) return;
  formats::ManifestReader reader(text(MapSection::manifest, BlobKind::manifest, *root.manifest), format,
                                 piece_of(MapSection::manifest));
  for (Row row; reader.next(row);) {
    if (row.type != Row::Type::file || !expected.content) continue;
    const bool is_read = !expected.is_read || expected.is_read(row);
    const auto known = recipes.find(row.blob);
    auto its_recipe = known != recipes.end() ? std::optional(known->second) : std::nullopt;
    if (!root.layout && walk.find_recipe) its_recipe = walk.find_recipe(row.blob);
    if (its_recipe)
      recipe(*its_recipe, is_read);
    else
      walk.visit({MapSection::data, BlobKind::data, row.blob, row.size, false, is_read});
  }
}

std::string map_file(const ObjectId& root) {
  const auto hex = root.hex();
  return "cache/map/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".zst";
}

RootMap::RootMap(base::Bytes file, base::ObjectFormat format, const ObjectId& root) {
  std::unordered_map<std::string, std::uint32_t> numbers;
  std::size_t runs = 0;
  detail_ = formats::read_map(
      file, format, root,
      [&](const formats::MapRun& run) {
        std::uint32_t pack = kNoPack;
        if (!run.pack.empty()) {
          const auto [known, fresh] = numbers.emplace(run.pack, static_cast<std::uint32_t>(packs_.size()));
          if (fresh) packs_.push_back(run.pack);
          pack = known->second;
        }
        if (++runs > kMaxRuns)
          throw base::Error(base::Category::refused, "map: more runs than fit into memory");
        sections_[static_cast<std::size_t>(run.section)].runs.push_back(
            {run.group.offset, run.group.size, pack, run.first, run.count});
      },
      [&](const formats::MapDelta& delta) { deltas_.push_back(delta); });
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

std::string RootMap::first_pack(MapSection section) const {
  const auto& runs = sections_[static_cast<std::size_t>(section)].runs;
  return runs.empty() || runs.front().pack == kNoPack ? std::string() : packs_[runs.front().pack];
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
