// 32 positions a step. The prefilter hash is linear, so it is built from sums over four bytes:
//   h4(i) = b(i) ^ x·b(i-1) ^ x²·b(i-2) ^ x³·b(i-3)
//   H(i) = h4(i) ^ x⁴·h4(i-4) ^ x⁸·h4(i-8) ^ x¹²·h4(i-12)
// No step waits for the one before except through a byte shift of its last vectors. What counts is not the
// number of instructions but how many wait for one another from load to candidates: so bytes are loaded at
// each distance, not shifted, and the three products are made side by side.
#include "chunker/internal/scan.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace chunker::internal {
namespace {

#define SHRUB_AVX2 __attribute__((target("avx2")))

constexpr std::size_t kStep = 32;

/// What a step needs of the one before: h4 times x⁴, x⁸ and x¹², and H.
struct History {
  __m256i x4, x8, x12, hash;
};

/// `current` moved up by Count bytes, filled from the end of `previous`: element i holds position i - Count.
template <int Count>
SHRUB_AVX2 inline __m256i shifted(__m256i previous, __m256i current) noexcept {
  const __m256i middle = _mm256_permute2x128_si256(previous, current, 0x21);
  if constexpr (Count == 16)
    return middle;
  else
    return _mm256_alignr_epi8(current, middle, 16 - Count);
}

/// a ^ x·b
SHRUB_AVX2 inline __m256i plus_2(__m256i a, __m256i b) noexcept {
  const __m256i carry = _mm256_blendv_epi8(_mm256_setzero_si256(), _mm256_set1_epi8(0x1B), b);
  return _mm256_xor_si256(_mm256_xor_si256(a, _mm256_add_epi8(b, b)), carry);
}

constexpr std::uint8_t product(unsigned a, unsigned b) noexcept {
  unsigned result = 0;
  for (int bit = 7; bit >= 0; --bit) {
    result = result << 1 ^ (result & 0x80 ? 0x11B : 0);
    if (b >> bit & 1) result ^= a;
  }
  return static_cast<std::uint8_t>(result);
}

struct Table {
  alignas(32) std::uint8_t low[32], high[32];
  explicit constexpr Table(unsigned factor) : low{}, high{} {
    for (unsigned i = 0; i < 32; ++i) {
      low[i] = product(factor, i % 16);
      high[i] = product(factor, i % 16 << 4);
    }
  }
};
constexpr Table kX4(0x10), kX8(0x1B), kX12(product(0x1B, 0x10));

SHRUB_AVX2 inline __m256i load(const void* from) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

/// The product of the table's factor and bytes given by their halves.
SHRUB_AVX2 inline __m256i times(const Table& table, __m256i low, __m256i high) noexcept {
  return _mm256_xor_si256(_mm256_shuffle_epi8(load(table.low), low),
                          _mm256_shuffle_epi8(load(table.high), high));
}

/// The candidates among the 32 positions from `at`; leaves in `history` what the next 32 need.
SHRUB_AVX2 inline std::uint32_t step(History& history, const std::byte* at) noexcept {
  const __m256i h4 = plus_2(load(at), plus_2(load(at - 1), plus_2(load(at - 2), load(at - 3))));
  const __m256i half = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(h4, half), high = _mm256_and_si256(_mm256_srli_epi16(h4, 4), half);
  const __m256i x4 = times(kX4, low, high), x8 = times(kX8, low, high), x12 = times(kX12, low, high);
  const __m256i hash =
      _mm256_xor_si256(_mm256_xor_si256(h4, shifted<4>(history.x4, x4)),
                       _mm256_xor_si256(shifted<8>(history.x8, x8), shifted<12>(history.x12, x12)));
  const __m256i wrong = _mm256_or_si256(
      _mm256_xor_si256(hash, _mm256_set1_epi8(static_cast<char>(kCandidateHash))),
      _mm256_and_si256(shifted<16>(history.hash, hash), _mm256_set1_epi8(static_cast<char>(kCandidateMask))));
  history = {x4, x8, x12, hash};
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(wrong, _mm256_setzero_si256())));
}

/// The same for 64 positions.
SHRUB_AVX2 inline std::uint64_t two_steps(History& history, const std::byte* at) noexcept {
  const std::uint64_t low = step(history, at), high = step(history, at + kStep);
  return high << kStep | low;
}

SHRUB_AVX2 std::size_t find_cut_avx2(const Parameters& parameters, base::Bytes rest) noexcept {
  if (rest.size() <= parameters.min_size) return rest.size();
  const auto range = scan_range(parameters, rest.size());
  const std::byte* data = rest.data();

  // One step before the first wanted position fills the history; what it finds is not looked at.
  const __m256i zero = _mm256_setzero_si256();
  History history{zero, zero, zero, zero};
  std::size_t i = range.first;
  (void)step(history, data + i - kStep);
  for (; i + 4 * kStep <= range.end; i += 4 * kStep) {
    const std::uint64_t candidates[] = {two_steps(history, data + i),
                                        two_steps(history, data + i + 2 * kStep)};
    if ((candidates[0] | candidates[1]) == 0) continue;
    for (std::size_t k = 0; k < 2; ++k)
      if (const auto cut = find_cut_of(candidates[k], parameters, data, i + 2 * k * kStep, range.normal))
        return cut;
  }
  for (; i + kStep <= range.end; i += kStep)
    if (const auto cut = find_cut_of(step(history, data + i), parameters, data, i, range.normal)) return cut;
  for (; i < range.end; ++i)
    if (is_candidate(data + i) && is_cut(parameters, data, i, range.normal)) return i + 1;
  return range.end;
}

}  // namespace

FindCut find_avx2() noexcept {
  return find_cut_avx2;
}

}  // namespace chunker::internal

#else
namespace chunker::internal {
FindCut find_avx2() noexcept {
  return nullptr;
}
}  // namespace chunker::internal
#endif
