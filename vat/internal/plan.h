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
#include "formats/text/text_object.h"
#include "vat/blob_source.h"
#include "vat/internal/fetcher.h"

namespace vat::internal {

/// One blob of a root. Texts are met before they are read.
struct Met {
  formats::MapSection section;
  base::ObjectId id;
  std::uint64_t size = 0;  ///< content bytes, 0: unknown
  bool is_read = true;     ///< false: nobody will ask for it
};

/// Meets every blob of the root, in the order of the sections of its map (docs/formats/map.md), each section
/// by itself. `read` gives texts. Memory: the layout. Throws what reading texts throws; refused if one is
/// malformed.
void walk_root(base::ObjectFormat format, const Expected& root, const formats::GetText& read,
               const std::function<void(const Met&)>& visit);

/// The id that names the map of a root.
[[nodiscard]] const base::ObjectId& map_id(const Expected& root);
/// Where the map of a root lies in a vat.
[[nodiscard]] std::string map_file(const base::ObjectId& root);

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
  /// Groups of `pack` that the section names, in its order, each once; at most `size` bytes of them.
  [[nodiscard]] std::vector<PackGroup> groups_of(formats::MapSection section, const std::string& pack,
                                                 std::uint64_t size) const;
  [[nodiscard]] bool has(formats::MapSection section) const {
    return !sections_[static_cast<std::size_t>(section)].runs.empty();
  }

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
  std::vector<std::string> packs_;
  std::array<Section, formats::kMapSections> sections_;
};

}  // namespace vat::internal
