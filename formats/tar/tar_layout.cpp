#include "formats/tar/tar_layout.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "formats/base/numbers.h"
#include "formats/tar/tar_header.h"

namespace formats {
namespace {

constexpr std::uint64_t kBlock = kTarBlock;
constexpr std::uint64_t kMaxPax = std::uint64_t{1} << 20;  ///< bytes of the records of one member
constexpr std::uint64_t kWindow = std::uint64_t{64} << 10;

using Header = TarHeader;

/// The size that pax records give, if they give one. False if they are malformed.
bool read_pax(std::string_view records, std::optional<std::uint64_t>& size) {
  bool good = true;
  return read_pax_records(records,
                          [&](std::string_view key, std::string_view value) {
                            if (key != "size") return;
                            size = base::parse_decimal(value);
                            good = good && size.has_value();
                          }) &&
         good;
}

class Walker {
 public:
  Walker(const base::ReadAt& read, std::uint64_t size) : read_(read), size_(size) {}

  std::optional<std::vector<TarContent>> run() {
    std::vector<TarContent> contents;
    std::uint64_t at = 0;
    bool any = false;
    std::optional<std::uint64_t> pax_size;
    for (Header header; size_ - at >= kBlock;) {
      if (!read_block(at, header)) return std::nullopt;
      if (is_zero_block(header)) break;  // the end; what follows is nobody's content
      const auto said = tar_size(header);
      if (!has_right_sum(header) || !said) return std::nullopt;
      any = true;
      at += kBlock;
      const char type = tar_type(header);
      if (type == 'S' && !skip_sparse_map(header, at)) return std::nullopt;
      const auto extended = type == 'x' || type == 'g' || type == 'L' || type == 'K';
      const auto size = extended ? *said : std::exchange(pax_size, std::nullopt).value_or(*said);
      const auto padded = size > UINT64_MAX - kBlock ? UINT64_MAX : (size + kBlock - 1) / kBlock * kBlock;
      if (padded > size_ - at) return std::nullopt;
      if (type == 'x') {
        if (size > kMaxPax || !read_records(at, size, pax_size)) return std::nullopt;
      } else if (!extended && size > 0) {
        contents.push_back({at, size});
      }
      at += padded;
    }
    if (!any) return std::nullopt;
    return contents;
  }

 private:
  /// Neighbours are read at once, as most members are small.
  bool read_block(std::uint64_t at, Header& header) {
    if (at < window_at_ || at + kBlock > window_at_ + window_.size()) {
      window_.resize(static_cast<std::size_t>(std::min(kWindow, size_ - at)));
      window_at_ = at;
      if (!read_(at, window_)) return false;
    }
    std::copy_n(window_.begin() + static_cast<std::ptrdiff_t>(at - window_at_), kBlock, header.begin());
    return true;
  }

  bool read_records(std::uint64_t at, std::uint64_t size, std::optional<std::uint64_t>& pax_size) {
    base::Buffer records(static_cast<std::size_t>(size));
    return read_(at, records) && read_pax(base::as_chars(records), pax_size);
  }

  /// GNU's blocks that go on with the map of a sparse file.
  bool skip_sparse_map(const Header& header, std::uint64_t& at) {
    auto more = header[482];
    for (Header block; more != std::byte{0}; at += kBlock) {
      if (size_ - at < kBlock || !read_block(at, block)) return false;
      more = block[504];
    }
    return true;
  }

  const base::ReadAt& read_;
  const std::uint64_t size_;
  std::uint64_t window_at_ = 0;
  base::Buffer window_;
};

}  // namespace

std::optional<std::vector<TarContent>> find_tar_contents(const base::ReadAt& read, std::uint64_t size) {
  return Walker(read, size).run();
}

}  // namespace formats
