// What has to be read for a root, in order, and where its map says that lies.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/map/map.h"
#include "formats/text/recipe.h"
#include "formats/text/text_object.h"
#include "vat/blob_source.h"
#include "vat/internal/pack_group.h"

namespace vat::internal {

/// One blob of a root. Texts are met before they are read.
struct Met {
  formats::MapSection section;
  formats::BlobKind kind;
  base::ObjectId id;
  std::uint64_t size = 0;  ///< content bytes, 0: unknown
  bool of_recipe = false;  ///< data that a recipe names
  bool is_read = true;     ///< false: nobody will ask for it
};

struct Walk {
  formats::GetText read;  ///< gives texts
  std::function<void(const Met&)> visit;
  /// Told by each recipe whose content it describes, and its size; may be empty.
  std::function<void(const base::ObjectId& recipe, const formats::RecipeHeader&)> on_recipe;
  /// For files of a tree whose layout is not known; empty: they are blobs.
  std::function<std::optional<base::ObjectId>(const base::ObjectId& content)> find_recipe;
};

/// Meets every blob of the root, in the order of the sections of its map (docs/formats/map.md), each section
/// by itself. Memory: the layout. Throws what reading texts throws; refused if one is malformed.
void walk_root(base::ObjectFormat format, const Expected& expected, const Walk& walk);

/// Where the map of a root lies in a vat.
[[nodiscard]] std::string map_file(const base::ObjectId& root);
constexpr std::size_t kMaxMapFile = std::size_t{64} << 20;  ///< bytes

/// A map in memory: 24 bytes a run.
class RootMap {
 public:
  /// Throws as formats::read_map.
  RootMap(base::Bytes file, base::ObjectFormat format, const base::ObjectId& root);

  struct Place {
    PackGroup group;
    std::uint32_t position = 0;
  };
  /// The place of the `index`-th blob of the section; indexes must not go down. nullopt: it lies in no pack,
  /// or there is none.
  [[nodiscard]] std::optional<Place> find(formats::MapSection section, std::uint64_t index);
  /// The pack of its first blob; empty if there is none, or it lies in no pack.
  [[nodiscard]] std::string first_pack(formats::MapSection section) const;
  /// Groups of `pack` that the section names, in its order, each once; at most `size` bytes of them.
  [[nodiscard]] std::vector<PackGroup> groups_of(formats::MapSection section, const std::string& pack,
                                                 std::uint64_t size) const;
  /// Deltas that lead to the root.
  [[nodiscard]] const std::vector<formats::MapDelta>& deltas() const noexcept { return deltas_; }
  /// The layout or recipe it was made for: of another one recipes and data tell nothing.
  [[nodiscard]] const std::optional<base::ObjectId>& detail() const noexcept { return detail_; }

 private:
  static constexpr std::uint32_t kNoPack = UINT32_MAX;
  struct Run {
    std::uint64_t offset;
    std::uint32_t size, pack, first, count;
  };
  struct Section {
    std::vector<Run> runs;
    std::size_t at = 0;       ///< the run that `begin` is of
    std::uint64_t begin = 0;  ///< index of the first blob of that run
  };
  [[nodiscard]] PackGroup group_of(const Run& run) const {
    return {packs_[run.pack], {run.offset, run.size}};
  }
  std::optional<base::ObjectId> detail_;
  std::vector<formats::MapDelta> deltas_;
  std::vector<std::string> packs_;
  std::array<Section, formats::kMapSections> sections_;
};

}  // namespace vat::internal
