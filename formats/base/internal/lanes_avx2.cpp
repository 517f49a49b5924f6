// Compiled for AVX2.
#include "formats/base/internal/lanes.h"

#if defined(__AVX2__)
#include <immintrin.h>

#include "formats/base/internal/lanes_kernel.h"

namespace base::internal {
namespace {

struct V {
  static constexpr std::size_t kLanes = 8;
  __m256i v;

  static V load(const std::uint32_t* from) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
  }
  void store(std::uint32_t* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v); }
  static V all(std::uint32_t word) { return {_mm256_set1_epi32(static_cast<int>(word))}; }
  friend V operator+(V a, V b) { return {_mm256_add_epi32(a.v, b.v)}; }
  friend V operator-(V a, V b) { return {_mm256_sub_epi32(a.v, b.v)}; }
  friend V operator|(V a, V b) { return {_mm256_or_si256(a.v, b.v)}; }
  friend V operator^(V a, V b) { return {_mm256_xor_si256(a.v, b.v)}; }
  template <int Count>
  V rotl() const {
    if constexpr (Count == 0)
      return *this;
    else
      return {_mm256_or_si256(_mm256_slli_epi32(v, Count), _mm256_srli_epi32(v, 32 - Count))};
  }
  template <int Count>
  V shr() const {
    return {_mm256_srli_epi32(v, Count)};
  }
  static V xor3(V a, V b, V c) { return a ^ b ^ c; }
  static V choose(V a, V b, V c) {
    return {_mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(b.v, c.v), a.v), c.v)};
  }
  static V majority(V a, V b, V c) {
    return {_mm256_or_si256(_mm256_and_si256(a.v, b.v), _mm256_and_si256(_mm256_or_si256(a.v, b.v), c.v))};
  }
  bool any() const { return _mm256_testz_si256(v, v) == 0; }
  /// Without the bits of `mask` in lanes where x has `bit` set (Set) or clear.
  template <bool Set>
  V drop_where(V x, std::uint32_t bit, std::uint32_t mask) const {
    const __m256i tested = all(bit).v;
    const __m256i unequal =
        _mm256_cmpeq_epi32(_mm256_and_si256(x.v, tested), Set ? tested : _mm256_setzero_si256());
    return {_mm256_andnot_si256(_mm256_and_si256(unequal, all(mask).v), v)};
  }
  /// The 16 big-endian words of each lane's block, word j of lane i at lane i of w[j].
  static void load_blocks(const std::byte* const* blocks, V* w) {
    const __m256i swap =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
    for (int half = 0; half < 2; ++half) {
      __m256i r[8], t[8];
      for (int i = 0; i < 8; ++i)
        r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks[i] + 32 * half));
      for (int i = 0; i < 8; i += 2) {  // pairs of rows, word by word
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
      }
      for (int i = 0; i < 8; i += 4) {  // fours of rows
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
      }
      for (int j = 0; j < 4; ++j) {
        w[8 * half + j].v = _mm256_shuffle_epi8(_mm256_permute2x128_si256(r[j], r[4 + j], 0x20), swap);
        w[8 * half + 4 + j].v = _mm256_shuffle_epi8(_mm256_permute2x128_si256(r[j], r[4 + j], 0x31), swap);
      }
    }
  }
};

}  // namespace

const Lanes* find_avx2_lanes() noexcept {
  return &kLanesOf<V>;
}

}  // namespace base::internal

#else
namespace base::internal {
const Lanes* find_avx2_lanes() noexcept {
  return nullptr;
}
}  // namespace base::internal
#endif
