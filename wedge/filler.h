// Gets what a mount lacks, in the background.
#pragma once

#include <cstdint>
#include <functional>

#include "vat/blob_source.h"
#include "vat/peer_set.h"

namespace wedge {

/// Reads every blob of a root once, so that it is here from then on. `is_over` is asked before each; then it
/// returns early. `progress`: content bytes that are here. Throws what reading throws.
void fill(vat::BlobSource& source, const vat::Root& root, const std::function<bool()>& is_over,
          const std::function<void(std::uint64_t)>& progress);

/// How much of a root is on this disk, from 0 to 1, by its blobs; 0 as long as what lists them is not all
/// here. Asks no peer. `is_over`: asked for each blob; then 0.
[[nodiscard]] double share_here(vat::PeerSet& peers, const vat::Root& root,
                                const std::function<bool()>& is_over);

}  // namespace wedge
