// How two roots differ: path by path, and in bytes that one has and the other lacks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>

#include "formats/base/object_id.h"
#include "formats/text/manifest.h"
#include "vat/blob_source.h"
#include "wedge/wedge.h"

namespace wedge {

struct TreeChange {
  enum class Kind : std::uint8_t { added, removed, type, content, metadata };
  Kind kind;
  std::string path;
};

[[nodiscard]] std::string_view to_string(TreeChange::Kind kind) noexcept;

/// Reports what the manifest `after` changes, in order of paths. Only manifests are read.
void diff_manifests(vat::BlobSource& before_source, const base::ObjectId& before,
                    vat::BlobSource& after_source, const base::ObjectId& after,
                    const std::function<void(const TreeChange&)>& on_change);

/// The blobs and chunks that content is made of, each once, with their sizes. Only manifests, layouts and
/// recipes are read. Memory grows with their number.
using Parts = std::unordered_map<base::ObjectId, std::uint64_t>;
void add_parts(vat::BlobSource& source, const EntryRoot& root, Parts& parts);

}  // namespace wedge
