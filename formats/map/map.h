// Maps: where in which packs the blobs of one root lie, in the order a reader wants them. docs/formats/map.md
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/pack/pack.h"

namespace formats {

inline constexpr std::size_t kMaxMapText = std::size_t{1} << 30;  ///< bytes, decompressed

/// What the blobs of a run are for; also the order in which sections follow one another.
enum class MapSection : std::uint8_t { manifest = 0, layout = 1, recipes = 2, data = 3 };
inline constexpr std::size_t kMapSections = 4;

/// Neighbouring blobs of one group. A map holds no ids: what it leads to is proven by hashing, as everything
/// is.
struct MapRun {
  MapSection section = MapSection::data;
  std::string pack;  ///< SHA-256 in hex; empty: the blobs lie in no pack
  GroupPlace group{};
  std::uint32_t first = 0;  ///< position of the first blob in the group
  std::uint32_t count = 0;
  friend bool operator==(const MapRun& a, const MapRun& b) {
    return a.section == b.section && a.pack == b.pack && a.group.offset == b.group.offset &&
           a.group.size == b.group.size && a.first == b.first && a.count == b.count;
  }
};

/// A delta that leads to the root of a map.
struct MapDelta {
  base::ObjectId from;
  std::uint64_t size = 0;     ///< bytes of its file
  std::uint64_t missing = 0;  ///< bytes of the groups that whoever has `from` would fetch without it
};

/// Builds a map from places in the reader's order, in any order of sections; a place that continues the run
/// before makes it longer.
class MapWriter {
 public:
  /// `detail`: the layout of a tree or the recipe of a file, which decide about recipes and data.
  MapWriter(base::ObjectFormat format, const base::ObjectId& root,
            const std::optional<base::ObjectId>& detail);
  void add(MapSection section, const std::string& pack, const GroupPlace& group, std::uint32_t position);
  /// There is a delta; see docs/formats/delta.md.
  void add_delta(const MapDelta& delta);
  /// The next blob lies in no pack.
  void add_absent(MapSection section);
  /// The file: one zstd frame.
  [[nodiscard]] base::Buffer finish();

 private:
  struct Section {
    std::string text;
    std::optional<MapRun> run;
  };
  void flush(Section& section);
  std::string head_, deltas_;
  std::vector<std::string> packs_;
  std::array<Section, kMapSections> sections_;
};

/// Reads a map; returns the detail it was made for. `on_delta` may be empty. Throws corrupt for a damaged
/// frame, no_store for another version, refused for what breaks the format.
std::optional<base::ObjectId> read_map(base::Bytes file, base::ObjectFormat format,
                                       const base::ObjectId& root,
                                       const std::function<void(const MapRun&)>& visit,
                                       const std::function<void(const MapDelta&)>& on_delta = {});

}  // namespace formats
