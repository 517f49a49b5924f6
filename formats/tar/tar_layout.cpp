#include "formats/tar/tar_layout.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "formats/base/numbers.h"

namespace formats {
namespace {

constexpr std::uint64_t kBlock = 512;
constexpr std::uint64_t kMaxPax = std::uint64_t{1} << 20;  ///< bytes of the records of one member
constexpr std::uint64_t kWindow = std::uint64_t{64} << 10;

using Header = std::array<std::byte, kBlock>;

std::string_view field(const Header& header, std::size_t at, std::size_t size) {
  return base::as_chars(header).substr(at, size);
}

/// Octal digits, among blanks and zeros; or, with the high bit set, a number of base 256.
std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  if (static_cast<unsigned char>(text.front()) == 0x80) {
    for (const char c : text.substr(1)) {
      if (value >> 56 != 0) return std::nullopt;
      value = value << 8 | static_cast<unsigned char>(c);
    }
    return value;
  }
  const auto begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) return 0;
  for (const char c : text.substr(begin)) {
    if (c == ' ' || c == '\0') break;
    if (c < '0' || c > '7' || value >> 60 != 0) return std::nullopt;
    value = value * 8 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

/// The sum of all bytes, those of itself as blanks. Some old programs took bytes to be signed.
bool has_right_sum(const Header& header) {
  std::uint64_t sum = 0;
  std::int64_t signed_sum = 0;
  for (std::size_t i = 0; i < header.size(); ++i) {
    const auto byte = i >= 148 && i < 156 ? std::uint8_t{' '} : std::to_integer<std::uint8_t>(header[i]);
    sum += byte;
    signed_sum += static_cast<std::int8_t>(byte);
  }
  const auto said = parse_number(field(header, 148, 8));
  return said && (*said == sum || static_cast<std::int64_t>(*said) == signed_sum);
}

/// The size that pax records give, if they give one. False if they are malformed.
bool read_pax(std::string_view records, std::optional<std::uint64_t>& size) {
  while (!records.empty() && records.front() != '\0') {
    const auto blank = records.find(' ');
    if (blank == std::string_view::npos) return false;
    const auto length = base::parse_decimal(records.substr(0, blank));
    if (!length || *length <= blank + 1 || *length > records.size()) return false;
    const auto record = records.substr(blank + 1, static_cast<std::size_t>(*length) - blank - 1);
    if (!record.ends_with('\n')) return false;
    if (record.starts_with("size=")) {
      size = base::parse_decimal(record.substr(5, record.size() - 6));
      if (!size) return false;
    }
    records.remove_prefix(static_cast<std::size_t>(*length));
  }
  return true;
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
      if (is_zero(header)) break;  // the end; what follows is nobody's content
      const auto said = parse_number(field(header, 124, 12));
      if (!has_right_sum(header) || !said) return std::nullopt;
      any = true;
      at += kBlock;
      const char type = static_cast<char>(header[156]);
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
  static bool is_zero(const Header& header) {
    return std::all_of(header.begin(), header.end(), [](std::byte byte) { return byte == std::byte{0}; });
  }

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
