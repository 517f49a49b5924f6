// What roots need, so that the rest can go.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "formats/base/object_id.h"
#include "vat/blob_source.h"
#include "vat/vat.h"

namespace vat {

using LiveSet = std::unordered_set<base::ObjectId>;

/// Adds all blobs of a root, and the id of its content. Throws refused if it cannot be read: then what it
/// needs is not known, and nothing may go.
void add_live(BlobSource& source, const Root& root, LiveSet& live);
/// The same of whatever the id names: a manifest, layout, recipe, file or blob. A file of a manifest is
/// whatever recipe describes it.
void add_live(BlobSource& source, const base::ObjectId& id, LiveSet& live);

/// The text of a root that names a blob: a recipe, else the manifest or layout; nullopt if it is the root
/// itself.
[[nodiscard]] std::optional<base::ObjectId> find_holder(BlobSource& source, const Root& root,
                                                        const base::ObjectId& id);

/// Files of a vat, below its directory: packs, hand-filled files, maps, in the order of their names.
[[nodiscard]] std::vector<std::string> list_files(Vat& vat);

/// Whether a file of the vat holds, or is of, something that is live; also if it is none that could go.
[[nodiscard]] bool is_live_file(Vat& vat, const std::string& file, const LiveSet& live);
/// Packs that are condemned, by their names as list_files() has them: since when, seconds since 1970.
[[nodiscard]] std::map<std::string, std::int64_t> condemned_files(Vat& vat);

}  // namespace vat
