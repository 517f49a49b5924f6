// Making one vat hold all that another does, file by file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/base/scratch.h"
#include "vat/peer_set.h"

namespace vat {

/// One side: a directory, or another host.
struct MirrorSide {
  std::string directory;  ///< empty: `peer` says
  PeerAddress peer;
};

struct MirrorSummary {
  std::uint64_t packs = 0, others = 0;  ///< files that were copied; others: hand-filled blobs and maps
  std::uint64_t size = 0;               ///< their bytes
  std::uint64_t damaged = 0;  ///< files of the source that do not match their names and were left out
};

struct MirrorOptions {
  PeerOptions peers;
  std::vector<base::ScratchPlace> scratch;  ///< for what comes from another host and goes on to another
  bool dry_run = false;
  std::function<void(std::uint64_t)> progress;  ///< bytes copied
};

/// Packs first, then hand-filled blobs, maps, and the list of packs; each appears whole and proven by its
/// name. What is there is left alone. A vat is made if there is none. Of a source that cannot list
/// directories only packs are copied. Returns when it is durable. Throws usage for a side that cannot be
/// written, and as PeerSet.
MirrorSummary mirror(const MirrorSide& from, const MirrorSide& to, const MirrorOptions& options);

}  // namespace vat
