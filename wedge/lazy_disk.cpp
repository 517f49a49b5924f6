#include "wedge/lazy_disk.h"

#include <utility>

namespace wedge {
namespace {

class LazyDisk final : public formats::Disk {
 public:
  LazyDisk(LazyReader& reader, LazyReader::FilePtr file, std::uint64_t size)
      : reader_(reader), file_(std::move(file)), size_(size) {}
  [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
  [[nodiscard]] Extent find_extent(std::uint64_t at) override {
    while (at < size_) {
      const auto run = reader_.run_at(file_, at);
      if (!run.is_hole) return {at, run.end};
      at = run.end;
    }
    return {size_, size_};
  }
  void read(std::uint64_t at, base::MutableBytes to) override { (void)reader_.read(file_, at, to); }

 private:
  LazyReader& reader_;
  const LazyReader::FilePtr file_;
  const std::uint64_t size_;
};

}  // namespace

std::unique_ptr<formats::Disk> open_lazy_disk(LazyReader& reader, LazyReader::FilePtr file,
                                              std::uint64_t size) {
  return std::make_unique<LazyDisk>(reader, std::move(file), size);
}

}  // namespace wedge
