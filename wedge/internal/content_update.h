// Making a file of one content hold another by writing only where they differ.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/disk/disk.h"
#include "vat/blob_source.h"

namespace wedge::internal {

/// From one recipe to another.
struct ContentUpdate {
  base::ObjectId before, after;
  bool trusted = false;  ///< nobody changed the file since it was made; else what stays is read and proven
};

/// Where what `after` describes is not, piece by piece, what `before` does; in order, and apart.
[[nodiscard]] std::vector<formats::Disk::Extent> find_changed_extents(vat::BlobSource& source,
                                                                      const base::ObjectId& before,
                                                                      const base::ObjectId& after);

/// Makes the file of `fd`, which holds what `update.before` describes, hold what `update.after` does. Holes
/// are punched. Returns how many content bytes were written.
std::uint64_t update_content(vat::BlobSource& source, const ContentUpdate& update, int fd);

/// The same in two steps. The first leaves what the file holds alone: in the directory `work` it makes "new",
/// which has the bytes that change at their offsets, and "extents", which says where these are. Returns how
/// many there are. Throws local if the disk has no room for what fills holes.
std::uint64_t stage_content(vat::BlobSource& source, const ContentUpdate& update, int fd, int work);
/// The second carries out what was staged in `work`; it may be interrupted and run again. `size`: of the file
/// afterwards. Before each write it sets the time of "extents", so that this tells when the last one was.
void apply_content(int work, int fd, std::uint64_t size);

}  // namespace wedge::internal
