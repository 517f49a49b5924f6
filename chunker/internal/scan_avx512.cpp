// 64 positions a step, with instructions for products:
//   h4(i) = b(i) ^ x·b(i-1) ^ x²·b(i-2) ^ x³·b(i-3), h8(i) = h4(i) ^ x⁴·h4(i-4)
//   H(i) = h8(i) ^ x⁸·h8(i-8)
// No step waits for the one before except through a byte shift of its last vectors.
#include "chunker/internal/scan.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

namespace chunker::internal {
namespace {

#define SHRUB_AVX512 __attribute__((target("avx512f,avx512bw,gfni")))

constexpr std::size_t kStep = 64;

/// What a step needs of the one before. `low` has a bit for each position whose hash allows a candidate 16
/// later.
struct History {
  __m512i bytes, h4, h8;
  __mmask64 low;
};

/// `current` moved up by 4 · Words bytes, filled from the end of `previous`.
template <int Words>
SHRUB_AVX512 inline __m512i shifted(__m512i previous, __m512i current) noexcept {
  return _mm512_alignr_epi32(current, previous, 16 - Words);
}

SHRUB_AVX512 inline __m512i load(const std::byte* from) noexcept {
  return _mm512_loadu_si512(from);
}

SHRUB_AVX512 inline __m512i times(__m512i v, char factor) noexcept {
  return _mm512_gf2p8mul_epi8(v, _mm512_set1_epi8(factor));
}

/// The candidates among the 64 positions of `bytes`; leaves in `history` what the next 64 need.
SHRUB_AVX512 inline std::uint64_t step(History& history, __m512i bytes) noexcept {
  const __m512i lanes_before = shifted<4>(history.bytes, bytes);
  const __m512i h4 = _mm512_xor_si512(
      bytes, _mm512_ternarylogic_epi32(times(_mm512_alignr_epi8(bytes, lanes_before, 15), 2),
                                       times(_mm512_alignr_epi8(bytes, lanes_before, 14), 4),
                                       times(_mm512_alignr_epi8(bytes, lanes_before, 13), 8), 0x96));
  const __m512i h8 = _mm512_xor_si512(h4, times(shifted<1>(history.h4, h4), 0x10));
  const __m512i hash = _mm512_xor_si512(h8, times(shifted<2>(history.h8, h8), 0x1B));
  const __mmask64 hit = _mm512_cmpeq_epi8_mask(hash, _mm512_set1_epi8(static_cast<char>(kCandidateHash)));
  const __mmask64 low = _mm512_testn_epi8_mask(hash, _mm512_set1_epi8(static_cast<char>(kCandidateMask)));
  const std::uint64_t candidates = hit & (low << 16 | history.low >> 48);
  history = {bytes, h4, h8, low};
  return candidates;
}

SHRUB_AVX512 std::size_t find_cut_avx512(const Parameters& parameters, base::Bytes rest) noexcept {
  if (rest.size() <= parameters.min_size) return rest.size();
  const auto range = scan_range(parameters, rest.size());
  const std::byte* data = rest.data();

  // One step before the first wanted position fills the history; what it finds is not looked at.
  const __m512i zero = _mm512_setzero_si512();
  History history{zero, zero, zero, 0};
  std::size_t i = range.first;
  (void)step(history, load(data + i - kStep));
  // One step in 16 has a candidate: four are taken between two looks at what they found.
  for (; i + 4 * kStep <= range.end; i += 4 * kStep) {
    const std::byte* from = data + i;
    const std::uint64_t candidates[] = {step(history, load(from)), step(history, load(from + kStep)),
                                        step(history, load(from + 2 * kStep)),
                                        step(history, load(from + 3 * kStep))};
    if ((candidates[0] | candidates[1] | candidates[2] | candidates[3]) == 0) continue;
    for (std::size_t k = 0; k < 4; ++k)
      if (const auto cut = find_cut_of(candidates[k], parameters, data, i + k * kStep, range.normal))
        return cut;
  }
  for (; i < range.end; i += kStep) {
    // Bytes outside the mask are not read.
    const std::uint64_t wanted = ~std::uint64_t{0} >> (kStep - std::min(kStep, range.end - i));
    const auto candidates = step(history, _mm512_maskz_loadu_epi8(wanted, data + i)) & wanted;
    if (const auto cut = find_cut_of(candidates, parameters, data, i, range.normal)) return cut;
  }
  return range.end;
}

}  // namespace

FindCut find_avx512() noexcept {
  return find_cut_avx512;
}

}  // namespace chunker::internal

#else
namespace chunker::internal {
FindCut find_avx512() noexcept {
  return nullptr;
}
}  // namespace chunker::internal
#endif
