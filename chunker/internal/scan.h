// The implementations behind chunker::find_cut; the scalar one defines the result.
#pragma once

#include <bit>

#include "chunker/chunker.h"
#include "formats/base/endian.h"

namespace chunker::internal {

using FindCut = std::size_t (*)(const Parameters&, base::Bytes) noexcept;

[[nodiscard]] std::size_t find_cut_scalar(const Parameters& parameters, base::Bytes rest) noexcept;
[[nodiscard]] std::size_t find_cut_portable(const Parameters& parameters, base::Bytes rest) noexcept;
/// nullptr where it was not compiled. Only for machines that base::simd() says have the instructions.
[[nodiscard]] FindCut find_avx2() noexcept;
[[nodiscard]] FindCut find_avx512() noexcept;

/// H(i) of docs/formats/chunker.md for the last of the 16 bytes that end at `last`.
[[nodiscard]] std::uint8_t prefilter_hash(const std::byte* last) noexcept;
/// The strong hash of the 32 bytes that end at `last`. In line: a call would make scans keep their vectors in
/// memory.
[[nodiscard]] inline std::uint64_t strong_hash(const std::byte* last) noexcept {
  std::uint64_t hash = 0;
  for (int word = 0; word < 4; ++word) {
    hash ^= base::load_le<std::uint64_t>(last - 31 + 8 * word);
    hash *= 0x9E3779B97F4A7C15;
    hash ^= hash >> 32;
  }
  return hash * 0xD6E8FEB86659FD93;
}

inline constexpr std::uint8_t kCandidateHash = 0x35;
inline constexpr std::uint8_t kCandidateMask = 3;
/// A candidate looks at this many bytes: its own and those before it.
inline constexpr std::size_t kWindowSize = 32;

/// Where a chunk may end: the first position examined, the one from which cuts are frequent, and the last
/// plus one.
struct Range {
  std::size_t first, normal, end;
};
[[nodiscard]] inline Range scan_range(const Parameters& parameters, std::size_t size) noexcept {
  const std::size_t end = size < parameters.max_size ? size : parameters.max_size;
  return {parameters.min_size - 1, end < parameters.normal_size ? end : parameters.normal_size, end};
}

/// Whether the candidate at `position` is a cut.
[[nodiscard]] inline bool is_cut(const Parameters& parameters, const std::byte* data, std::size_t position,
                                 std::size_t normal) noexcept {
  return strong_hash(data + position) < (position < normal ? parameters.rare_below : parameters.often_below);
}

/// The end of the chunk if one of 64 positions from `at` on is a cut, 0 if not; bit j of `candidates` stands
/// for at + j.
[[nodiscard]] inline std::size_t find_cut_of(std::uint64_t candidates, const Parameters& parameters,
                                             const std::byte* data, std::size_t at,
                                             std::size_t normal) noexcept {
  for (; candidates != 0; candidates &= candidates - 1) {
    const std::size_t position = at + static_cast<std::size_t>(std::countr_zero(candidates));
    if (is_cut(parameters, data, position, normal)) return position + 1;
  }
  return 0;
}

/// Whether the 32 bytes that end at `last` make a candidate.
[[nodiscard]] inline bool is_candidate(const std::byte* last) noexcept {
  return prefilter_hash(last) == kCandidateHash && (prefilter_hash(last - 16) & kCandidateMask) == 0;
}

}  // namespace chunker::internal
