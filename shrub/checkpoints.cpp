#include "shrub/checkpoints.h"

#include <algorithm>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/text/recipe.h"

namespace shrub {

std::optional<base::ObjectId> parent_of_child(const formats::Vref& parent, const base::ObjectId& recipe) {
  return parent.recipe == recipe ? parent.parent : parent.recipe;
}

std::vector<std::pair<std::string, wedge::EntryRoot>> entry_roots(const Shrub& shrub,
                                                                  const std::vector<std::string>& entries) {
  std::vector<std::pair<std::string, wedge::EntryRoot>> roots;
  std::optional<std::vector<Checkpoint>> all;  // once one is needed
  for (const auto& entry : entries) {
    const auto vref = shrub.read(entry);
    auto& root = roots.emplace_back(entry, entry_root(vref)).second;
    if (vref.materialize != "qcow2-overlay" || !vref.parent || vref.parent == vref.recipe) continue;
    if (!all) all = find_checkpoints(shrub);
    for (const auto& checkpoint : *all) {
      if (checkpoint.recipe != *vref.parent) continue;
      const auto& below = checkpoint.entries.front();
      root.form = wedge::EntryRoot::Form::qcow2_overlay;
      root.below = {below, checkpoint.recipe, checkpoint.size, !shrub.read(below).materialize.empty()};
    }
  }
  return roots;
}

std::vector<Checkpoint> find_checkpoints(const Shrub& shrub) {
  std::vector<Checkpoint> all;
  for (const auto& entry : shrub.entries(".")) {
    const auto vref = shrub.read(entry);
    if (vref.type != formats::Vref::Type::image) continue;
    const auto known =
        std::find_if(all.begin(), all.end(), [&](const auto& other) { return other.recipe == *vref.recipe; });
    if (known == all.end()) {
      all.push_back({{entry}, *vref.recipe, vref.size, vref.parent});
      continue;
    }
    known->entries.push_back(entry);
    if (!known->parent) known->parent = vref.parent;
  }
  return all;
}

std::vector<std::size_t> chain_of(const std::vector<Checkpoint>& all, const base::ObjectId& recipe) {
  std::vector<std::size_t> chain;
  for (std::optional<base::ObjectId> next = recipe; next;) {
    const auto there =
        std::find_if(all.begin(), all.end(), [&](const auto& other) { return other.recipe == *next; });
    const auto index = static_cast<std::size_t>(there - all.begin());
    if (there == all.end() || std::find(chain.begin(), chain.end(), index) != chain.end()) break;
    chain.push_back(index);
    next = there->parent;
  }
  return chain;
}

std::uint64_t chunk_key(const base::ObjectId& id) noexcept {
  return base::load_le<std::uint64_t>(id.raw().data());
}

bool ChunkSet::has(std::uint64_t key) const noexcept {
  const auto at =
      std::partition_point(chunks.begin(), chunks.end(), [&](const Chunk& chunk) { return chunk.key < key; });
  return at != chunks.end() && at->key == key;
}

ChunkSet read_chunks(vat::BlobSource& source, const base::ObjectId& recipe) {
  ChunkSet set;
  base::named("recipe " + recipe.hex(), [&] {
    formats::RecipeReader reader(source.read(recipe), source.object_format(),
                                 [&](const base::ObjectId& id) { return source.read(id); });
    for (formats::RecipeItem item; reader.next(item);)
      if (item.type != formats::RecipeItem::Type::hole) set.chunks.push_back({chunk_key(item.id), item.size});
  });
  std::sort(set.chunks.begin(), set.chunks.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  const auto same = [](const auto& a, const auto& b) { return a.key == b.key; };
  set.chunks.erase(std::unique(set.chunks.begin(), set.chunks.end(), same), set.chunks.end());
  return set;
}

std::string holders_of(vat::BlobSource& source, const std::vector<Checkpoint>& all,
                       const std::vector<std::size_t>& chain, const base::ObjectId& chunk) {
  std::string names;
  for (const auto index : chain) {
    try {
      if (!read_chunks(source, all[index].recipe).has(chunk_key(chunk))) continue;
    } catch (const base::Error&) {  // what it holds is not known
      continue;
    }
    names += (names.empty() ? "" : ", ") + all[index].entries.front();
  }
  return names;
}

}  // namespace shrub
