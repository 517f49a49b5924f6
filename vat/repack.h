// Fewer and denser packs: merges small ones, compresses anew, and takes away what was replaced once nobody
// can still be after it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "vat/vat.h"

namespace vat {

struct RepackOptions {
  /// Only packs that are small beside the others that are merged with them, and only once there are many: so
  /// that a byte is written again O(log n) times in the life of a vat, not each time.
  bool automatic = false;
  std::optional<int>
      level;             ///< compress everything anew; nullopt: groups of some size are copied as they are
  unsigned threads = 0;  ///< 0: one per core
  std::int64_t now = 0;  ///< seconds since 1970
  std::int64_t grace = std::int64_t{14} * 24 * 3600;  ///< seconds from being replaced to being removed
  bool dry_run = false;
  std::function<void(std::uint64_t)> progress;  ///< bytes of packs read so far
};

struct RepackSummary {
  std::uint64_t packs = 0, size = 0;             ///< that were rewritten
  std::uint64_t new_packs = 0, stored_size = 0;  ///< that took their place
  std::uint64_t kept = 0;                        ///< of those rewritten, because something in them is damaged
  std::uint64_t removed_packs = 0, removed_size = 0;  ///< replaced at least `grace` ago
};

/// Writes what is in the chosen packs into new ones, every blob proven on the way. A pack of which everything
/// is elsewhere is marked in cache/condemned/, and removed by the first repack that comes `grace` after that
/// and still finds every blob of it in another pack: who copies or reads the vat meanwhile misses nothing.
/// Nothing but the copy of a blob that has another good one is ever removed. Throws busy if another process
/// is at it.
RepackSummary repack(Vat& vat, const RepackOptions& options);

}  // namespace vat
