// Reads qcow2, the image format of QEMU, versions 2 and 3: docs/interop/qcow2.rst of QEMU 7.2. Nothing in it
// is trusted.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "formats/base/bytes.h"
#include "formats/disk/disk.h"

namespace formats {

/// Whether a file begins as a qcow2 image does.
[[nodiscard]] bool is_qcow2(base::Bytes begin);

/// The disk below, of which only changes are kept.
struct Backing {
  std::string name;    ///< as it stands in the file
  std::string format;  ///< "raw", "qcow2" …; empty: not said
  friend bool operator==(const Backing&, const Backing&) = default;
};

/// What its header says lies below; nullopt: nothing. `file_size`: bytes. Throws refused if it is malformed.
[[nodiscard]] std::optional<Backing> find_backing(const base::ReadAt& read, std::uint64_t file_size);

/// The guest's disk: clusters plain, compressed (deflate, zstd), zero or absent, subclusters too. `backing`
/// is what lies below; nullptr: zeros. All tables are read here, and checked: each lies in the file, and no
/// cluster of it is used twice. Memory: 8 bytes for each 512 KiB of disk with clusters of 64 KiB, at most,
/// and 16 for each run of clusters. Throws refused if the file is malformed, encrypted, marked as damaged,
/// keeps its data in another file, or says it needs what this reader does not know.
[[nodiscard]] std::unique_ptr<Disk> open_qcow2(base::ReadAt read, std::uint64_t file_size,
                                               std::unique_ptr<Disk> backing);

}  // namespace formats
