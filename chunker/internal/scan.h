// The implementations behind chunker::find_cut; the scalar one defines the result.
#pragma once

#include "chunker/chunker.h"

namespace chunker::internal {

using FindCut = std::size_t (*)(const Parameters&, base::Bytes) noexcept;

[[nodiscard]] std::size_t find_cut_scalar(const Parameters& parameters, base::Bytes rest) noexcept;
/// nullptr where it was not compiled. Only for machines that base::simd() says have AVX2.
[[nodiscard]] FindCut find_avx2() noexcept;

/// H(i) of docs/formats/chunker.md for the last of the 16 bytes that end at `last`.
[[nodiscard]] std::uint8_t prefilter_hash(const std::byte* last) noexcept;
/// The strong hash of the 32 bytes that end at `last`.
[[nodiscard]] std::uint64_t strong_hash(const std::byte* last) noexcept;

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

/// Whether the 32 bytes that end at `last` make a candidate.
[[nodiscard]] inline bool is_candidate(const std::byte* last) noexcept {
  return prefilter_hash(last) == kCandidateHash && (prefilter_hash(last - 16) & kCandidateMask) == 0;
}

}  // namespace chunker::internal
