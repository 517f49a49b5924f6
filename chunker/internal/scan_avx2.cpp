// 32 positions a step. The prefilter hash is linear, so it is built by doubling the window four times:
//   h2(i) = b(i) ^ x·b(i-1), h4(i) = h2(i) ^ x²·h2(i-2), h8(i) = h4(i) ^ x⁴·h4(i-4), H(i) = h8(i) ^
//   x⁸·h8(i-8)
// and no step waits for the one before except through a byte shift of its last vector.
#include "chunker/internal/scan.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <bit>

namespace chunker::internal {
namespace {

#define SHRUB_AVX2 __attribute__((target("avx2")))

struct Vectors {
  __m256i bytes, h2, h4, h8, hash;
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

SHRUB_AVX2 inline __m256i times_2(__m256i v) noexcept {
  const __m256i carry = _mm256_cmpgt_epi8(_mm256_setzero_si256(), v);
  return _mm256_xor_si256(_mm256_add_epi8(v, v), _mm256_and_si256(carry, _mm256_set1_epi8(0x1B)));
}

/// Product of v with a constant, by tables for the low and the high half of each byte.
SHRUB_AVX2 inline __m256i times(__m256i v, __m256i low_table, __m256i high_table) noexcept {
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(low_table, _mm256_and_si256(v, nibble));
  const __m256i high = _mm256_shuffle_epi8(high_table, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
  return _mm256_xor_si256(low, high);
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
constexpr Table kTimes4(4), kTimes16(16), kTimes1B(0x1B);

SHRUB_AVX2 inline __m256i load(const void* from) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

/// Vectors for the 32 positions from `at`, given those for the 32 before.
SHRUB_AVX2 inline Vectors extend(const Vectors& before, const std::byte* at) noexcept {
  Vectors v;
  v.bytes = load(at);
  v.h2 = _mm256_xor_si256(v.bytes, times_2(shifted<1>(before.bytes, v.bytes)));
  v.h4 = _mm256_xor_si256(v.h2, times(shifted<2>(before.h2, v.h2), load(kTimes4.low), load(kTimes4.high)));
  v.h8 = _mm256_xor_si256(v.h4, times(shifted<4>(before.h4, v.h4), load(kTimes16.low), load(kTimes16.high)));
  v.hash =
      _mm256_xor_si256(v.h8, times(shifted<8>(before.h8, v.h8), load(kTimes1B.low), load(kTimes1B.high)));
  return v;
}

SHRUB_AVX2 inline unsigned candidates(const Vectors& before, const Vectors& v) noexcept {
  const __m256i hit = _mm256_cmpeq_epi8(v.hash, _mm256_set1_epi8(static_cast<char>(kCandidateHash)));
  const __m256i low_bits =
      _mm256_and_si256(shifted<16>(before.hash, v.hash), _mm256_set1_epi8(static_cast<char>(kCandidateMask)));
  const __m256i both = _mm256_and_si256(hit, _mm256_cmpeq_epi8(low_bits, _mm256_setzero_si256()));
  return static_cast<unsigned>(_mm256_movemask_epi8(both));
}

SHRUB_AVX2 std::size_t find_cut_avx2(const Parameters& parameters, base::Bytes rest) noexcept {
  if (rest.size() <= parameters.min_size) return rest.size();
  const auto range = scan_range(parameters, rest.size());
  const std::byte* data = rest.data();

  // One vector before the first wanted position fills the history; what it finds is not looked at.
  const __m256i zero = _mm256_setzero_si256();
  Vectors before = extend({zero, zero, zero, zero, zero}, data + range.first - 32);
  std::size_t i = range.first;
  for (; i + 32 <= range.end; i += 32) {
    const Vectors now = extend(before, data + i);
    for (unsigned hits = candidates(before, now); hits != 0; hits &= hits - 1) {
      const std::size_t position = i + static_cast<std::size_t>(std::countr_zero(hits));
      if (is_cut(parameters, data, position, range.normal)) return position + 1;
    }
    before = now;
  }
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
