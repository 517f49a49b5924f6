// Deltas between roots: made once beside the packs, used by whoever has the one root and wants the other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "vat/blob_source.h"
#include "vat/vat.h"

namespace vat {

struct DeltaOptions {
  int level = 19;                               ///< zstd level
  bool dry_run = false;                         ///< it is made and measured, and not kept
  std::function<void(std::uint64_t)> progress;  ///< content bytes of the new root met so far
};

struct DeltaSummary {
  std::uint64_t blobs = 0;        ///< that only the new root needs
  std::uint64_t size = 0;         ///< their content bytes
  std::uint64_t stored_size = 0;  ///< of the delta
  std::string file;               ///< below the vat
};

/// Where the delta between two roots lies in a vat.
[[nodiscard]] std::string delta_file(const base::ObjectId& from, const base::ObjectId& to);

/// Writes cache/delta/… with what `to` needs and `from` has not, compressed against what lies at the same
/// path (or the nearest name in the same directory) or, in an image, near the same offset; and names it in
/// the map of `to`. Memory: 24 MiB of content and what zstd takes, eight bytes for each blob of `from`, and
/// the rows of `from` that `to` has not. Throws usage unless both are of one kind; not_found, corrupt for
/// what the vat lacks.
DeltaSummary make_delta(Vat& vat, const Root& from, const Root& to, const DeltaOptions& options);

}  // namespace vat
