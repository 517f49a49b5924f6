// Fewer and denser packs: merges small ones, compresses anew, drops what no root needs, and takes away what
// was replaced or is dead once nobody can still be after it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

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
  /// gc: called right before packs may be deleted, so that what has come to be live since can be found.
  std::function<void()> before_removal;
};

/// Whether a blob is needed.
using IsLive = std::function<bool(const base::ObjectId&)>;

struct RepackSummary {
  std::uint64_t packs = 0, size = 0;             ///< that were rewritten
  std::uint64_t new_packs = 0, stored_size = 0;  ///< that took their place
  std::uint64_t kept = 0;                        ///< of those rewritten, because something in them is damaged
  std::uint64_t removed_packs = 0, removed_size = 0;  ///< replaced at least `grace` ago
  std::uint64_t dead_packs = 0, dead_size = 0;        ///< gc: condemned now, as nothing in them is live
  std::uint64_t waiting_packs = 0, waiting_size = 0;  ///< gc: condemned, and not long enough ago
  std::uint64_t live_blobs = 0, live_size = 0;        ///< gc: in packs that stay; size: content bytes
  std::vector<std::string> removed, condemned;        ///< gc: names of those packs
};

/// Writes what is in the chosen packs into new ones, every blob proven on the way. A pack of which everything
/// is elsewhere is marked in cache/condemned/, and removed by the first repack that comes `grace` after that
/// and still finds every blob of it in another pack: who copies or reads the vat meanwhile misses nothing.
/// Nothing but the copy of a blob that has another good one is ever removed. Throws busy if another process
/// is at it.
RepackSummary repack(Vat& vat, const RepackOptions& options);

/// Takes away, in two steps, what is not live. The first condemns packs in which nothing is live, and those
/// of which more than half is not, once what is has been written elsewhere. Adders do not rely on a condemned
/// pack: they store again what only it has. The second, by a later call, deletes those that were condemned
/// `grace` ago, of which everything that is live *then* is elsewhere, and that nobody holds a lease from
/// before. A pack that is needed after all is condemned no more. `options`: now, grace, threads, dry_run and
/// progress count. Hand-filled files stay. Throws busy if another process is at it.
RepackSummary collect_garbage(Vat& vat, const RepackOptions& options, const IsLive& is_live);

}  // namespace vat
