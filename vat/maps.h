// The published, re-creatable part of a vat: cache/.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/map/map.h"
#include "vat/vat.h"

namespace vat {

/// Writes cache/map/xx/….zst for the root, unless it is there, and brings cache/packs up to date. Blobs that
/// are not in a pack are left out: maps are hints. A vat whose cache/ cannot be written is left alone.
void write_map(Vat& vat, const Root& root);

/// As the index of the vat has it.
[[nodiscard]] std::optional<PackedPlace> find_place(Vat& vat, const base::ObjectId& id);

/// The map of a root whose texts are read from `texts`.
[[nodiscard]] base::Buffer make_map(
    BlobSource& texts, const Root& root,
    const std::function<std::optional<PackedPlace>(const base::ObjectId&)>& find_place,
    const std::vector<formats::MapDelta>& deltas = {});

/// The same although it is there: something else is to be said of it.
void rewrite_map(Vat& vat, const Root& root);

/// Brings cache/packs up to date: the names of all packs, one a line, in order; but for those of `leaving`,
/// by file name. False if it cannot be written.
bool write_pack_list(Vat& vat, const std::set<std::string>& leaving = {});

/// Brings the pack list up to date and replaces maps that lead to packs that are gone; roots that cannot be
/// read have none.
void refresh_cache(Vat& vat);

/// Checks what lies in cache/. With `repair` what is damaged is removed, or made anew where that is cheap: it
/// is only a cache.
void check_cache(
    Vat& vat, bool repair,
    const std::function<void(const std::string& file, const std::string& why, bool repaired)>& on_damage);

struct RebuildSummary {
  std::uint64_t packs = 0, blobs = 0, maps = 0;
};

/// Makes the index anew from primary/ and brings cache/ up to date: the pack list, and a map for every
/// manifest and every recipe of a file, where there is none that leads to packs that are there. A map made
/// here lacks the layout, which only a vref connects with its manifest. A dry run counts what would be there.
RebuildSummary rebuild(Vat& vat, bool dry_run = false);

}  // namespace vat
