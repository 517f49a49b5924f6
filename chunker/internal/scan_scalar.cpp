// The definition of VG-CDC in its plainest form (docs/formats/chunker.md).
#include "chunker/internal/scan.h"

namespace chunker::internal {
namespace {

/// Multiplication by x in GF(2^8) with the polynomial 0x11B.
constexpr std::uint8_t times_x(std::uint8_t value) noexcept {
  return static_cast<std::uint8_t>(value << 1 ^ (value >> 7 != 0 ? 0x1B : 0));
}

}  // namespace

std::uint8_t prefilter_hash(const std::byte* last) noexcept {
  std::uint8_t hash = 0;
  for (int back = 15; back >= 0; --back)
    hash = static_cast<std::uint8_t>(times_x(hash) ^ std::to_integer<std::uint8_t>(last[-back]));
  return hash;
}

std::size_t find_cut_scalar(const Parameters& parameters, base::Bytes rest) noexcept {
  if (rest.size() <= parameters.min_size) return rest.size();
  const auto range = scan_range(parameters, rest.size());
  for (std::size_t i = range.first; i < range.end; ++i)
    if (is_candidate(rest.data() + i) && is_cut(parameters, rest.data(), i, range.normal)) return i + 1;
  return range.end;
}

}  // namespace chunker::internal
