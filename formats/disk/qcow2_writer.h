// Writes qcow2, version 3, clusters of 64 KiB. See qcow2.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "formats/disk/disk.h"
#include "formats/disk/qcow2.h"

namespace formats {

struct Qcow2Options {
  std::optional<Backing> below;  ///< the disk below, of which only differences are kept
  bool compress = false;         ///< clusters become zstd frames, where they get smaller; QEMU 5.1 reads them
};

/// Writes `disk` to `fd`, an empty file. With `below` only what differs from the disk below, as
/// disk.find_changed() says, and the name of that; else what is not zero. What is written depends on the disk
/// only. `progress`: bytes of the disk that are done; may be empty. Not synced. Errors: local; refused if the
/// disk is larger than kMaxDiskSize or no whole sectors of 512 bytes; what reading it throws.
void write_qcow2(Disk& disk, int fd, const Qcow2Options& options = {},
                 const std::function<void(std::uint64_t)>& progress = {});

/// A disk of zeros.
[[nodiscard]] std::unique_ptr<Disk> make_empty_disk(std::uint64_t size);

}  // namespace formats
