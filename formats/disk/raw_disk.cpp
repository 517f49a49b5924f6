#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/disk/disk.h"

namespace formats {
namespace {

class RawDisk final : public Disk {
 public:
  explicit RawDisk(int fd) : fd_(fd), size_(base::file_size(fd)) {}

  [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }

  /// As the file system knows; all of the file where it knows nothing.
  [[nodiscard]] Extent find_extent(std::uint64_t at) override {
    const auto here = static_cast<off_t>(at);
    const off_t data = ::lseek(fd_, here, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {size_, size_};
    const off_t hole = data >= 0 ? ::lseek(fd_, data, SEEK_HOLE) : -1;
    if (hole < 0) return {at, size_};
    return {std::min(static_cast<std::uint64_t>(data), size_),
            std::min(static_cast<std::uint64_t>(hole), size_)};
  }

  void read(std::uint64_t at, base::MutableBytes to) override {
    if (!base::read_exact_at(fd_, at, to))
      throw base::Error(base::Category::local, "changed while it was read");
  }

 private:
  int fd_;
  std::uint64_t size_;
};

}  // namespace

std::unique_ptr<Disk> open_raw_disk(int fd) {
  return std::make_unique<RawDisk>(fd);
}

}  // namespace formats
