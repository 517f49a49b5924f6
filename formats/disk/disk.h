// Disks as a guest sees them, whatever the file they are kept in looks like.
#pragma once

#include <cstdint>
#include <memory>

#include "formats/base/bytes.h"

namespace formats {

constexpr std::uint64_t kMaxDiskSize = std::uint64_t{1} << 50;  ///< bytes; what is larger is refused

/// One thread at a time. Errors: local; refused if the file is malformed.
class Disk {
 public:
  virtual ~Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  /// Bytes.
  [[nodiscard]] virtual std::uint64_t size() const noexcept = 0;

  /// A run of bytes that may be other than zero; what lies between runs is zero.
  struct Extent {
    std::uint64_t begin, end;
  };
  /// The first run that ends after `at`, from `at` on; [size, size) if there is none. It may be cut short.
  [[nodiscard]] virtual Extent find_extent(std::uint64_t at) = 0;

  /// The same of bytes that are not as they are in the disk below, though they may be zero. All of them if
  /// there is none.
  [[nodiscard]] virtual Extent find_changed(std::uint64_t at) { return {at, size()}; }

  /// Fills `to` with what is at `at`; all of it lies inside the disk.
  virtual void read(std::uint64_t at, base::MutableBytes to) = 0;

 protected:
  Disk() = default;
};

/// The bytes of a file as they are. `fd` outlives it.
[[nodiscard]] std::unique_ptr<Disk> open_raw_disk(int fd);

}  // namespace formats
