// Images and what they were made from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/object_id.h"
#include "shrub/shrub.h"
#include "vat/blob_source.h"

namespace shrub {

/// An image of a shrub. Two vrefs of one image are one checkpoint.
struct Checkpoint {
  std::vector<std::string> entries;  ///< vrefs that pin it
  base::ObjectId recipe;
  std::uint64_t size = 0;  ///< bytes of the disk
  std::optional<base::ObjectId> parent;
};

/// What the vref of an image names as its parent that was made from `parent`: that, unless it is the same.
[[nodiscard]] std::optional<base::ObjectId> parent_of_child(const formats::Vref& parent,
                                                            const base::ObjectId& recipe);

/// What entries become: as entry_root(vref), and what an overlay stands on, which is the entry of the image
/// it was made from. Without one in the shrub it becomes a qcow2 file of its own.
[[nodiscard]] std::vector<std::pair<std::string, wedge::EntryRoot>> entry_roots(
    const Shrub& shrub, const std::vector<std::string>& entries);

/// All images of a shrub, in the order of their first entries.
[[nodiscard]] std::vector<Checkpoint> find_checkpoints(const Shrub& shrub);

/// An image, the one it was made from, and so on; positions in `all`. It ends where a parent is in no vref of
/// the shrub, or is there already.
[[nodiscard]] std::vector<std::size_t> chain_of(const std::vector<Checkpoint>& all,
                                                const base::ObjectId& recipe);

/// The chunks of a recipe, each once.
struct ChunkSet {
  struct Chunk {
    std::uint64_t key;  ///< the first 8 bytes of its id
    std::uint64_t size;
  };
  std::vector<Chunk> chunks;  ///< by key
  [[nodiscard]] bool has(std::uint64_t key) const noexcept;
};
[[nodiscard]] std::uint64_t chunk_key(const base::ObjectId& id) noexcept;
/// Memory: 16 bytes a chunk.
[[nodiscard]] ChunkSet read_chunks(vat::BlobSource& source, const base::ObjectId& recipe);

/// Names of the images of a chain that hold a chunk, as a person reads them; empty: none.
[[nodiscard]] std::string holders_of(vat::BlobSource& source, const std::vector<Checkpoint>& all,
                                     const std::vector<std::size_t>& chain, const base::ObjectId& chunk);

}  // namespace shrub
