// Content by id: follows recipes, whole or in part, and proves every byte before it is handed out.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "vat/adder.h"
#include "vat/blob_source.h"

namespace vat {

/// Bytes [offset, offset + length) of some content, clamped to its end.
struct ByteRange {
  std::uint64_t offset = 0;
  std::uint64_t length = UINT64_MAX;
};

/// Called for a hole of that many bytes; without it holes come as zero bytes.
using HoleSink = std::function<void(std::uint64_t)>;

/// The content that the pinned recipe `recipe` describes. Every chunk is proven; the caller vouches for the
/// pin. Fetches only what the range touches. Throws refused if the recipe is malformed, not_found or corrupt
/// for a chunk.
void stream_recipe(BlobSource& source, const base::ObjectId& recipe, const ByteRange& range,
                   const base::ByteSink& sink, const HoleSink& holes = {});

/// The same of what a vref or a layout names: the recipe, or, where there is none, the blob.
void stream_pinned(BlobSource& source, const std::optional<base::ObjectId>& blob,
                   const std::optional<base::ObjectId>& recipe, const base::ByteSink& sink,
                   const HoleSink& holes = {});

/// Where content is to be had from.
struct Content {
  std::uint64_t size = 0;
  std::optional<base::ObjectId> recipe;  ///< nullopt: stored as one blob
};

/// Finds content by its whole-content id. If only an unproven recipe claims it, everything the recipe
/// describes is hashed first, once; the result is remembered in the index. Throws not_found, or corrupt if no
/// claim holds.
[[nodiscard]] Content find_content(BlobSource& source, const base::ObjectId& id);

/// Whether everything that makes up the content is there, as far as is known without reading data: the blob,
/// or the recipe and its chunks.
[[nodiscard]] bool holds(BlobSource& source, const base::ObjectId& blob,
                         const std::optional<base::ObjectId>& recipe);
/// The same of what an adder would not store again. From any thread.
[[nodiscard]] bool holds(const Adder& adder, const base::ObjectId& blob,
                         const std::optional<base::ObjectId>& recipe);

/// find_content and the bytes of it.
void stream_content(BlobSource& source, const base::ObjectId& id, const ByteRange& range,
                    const base::ByteSink& sink);

}  // namespace vat
