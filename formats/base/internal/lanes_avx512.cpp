// Compiled for AVX-512 (F, BW).
#include "formats/base/internal/lanes.h"

#if defined(__AVX512BW__)
#include <immintrin.h>

#include "formats/base/internal/lanes_kernel.h"

namespace base::internal {
namespace {

struct V {
  static constexpr std::size_t kLanes = 16;
  __m512i v;

  static V load(const std::uint32_t* from) { return {_mm512_loadu_si512(from)}; }
  void store(std::uint32_t* to) const { _mm512_storeu_si512(to, v); }
  static V all(std::uint32_t word) { return {_mm512_set1_epi32(static_cast<int>(word))}; }
  friend V operator+(V a, V b) { return {_mm512_add_epi32(a.v, b.v)}; }
  friend V operator-(V a, V b) { return {_mm512_sub_epi32(a.v, b.v)}; }
  friend V operator|(V a, V b) { return {_mm512_or_si512(a.v, b.v)}; }
  friend V operator^(V a, V b) { return {_mm512_xor_si512(a.v, b.v)}; }
  template <int Count>
  V rotl() const {
    return {_mm512_rol_epi32(v, Count)};
  }
  template <int Count>
  V shr() const {
    return {_mm512_srli_epi32(v, Count)};
  }
  static V xor3(V a, V b, V c) { return {_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0x96)}; }
  static V choose(V a, V b, V c) { return {_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0xCA)}; }
  static V majority(V a, V b, V c) { return {_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0xE8)}; }
  bool any() const { return _mm512_test_epi32_mask(v, v) != 0; }
  /// Without the bits of `mask` in lanes where x has `bit` set (Set) or clear.
  template <bool Set>
  V drop_where(V x, std::uint32_t bit, std::uint32_t mask) const {
    const __m512i tested = _mm512_set1_epi32(static_cast<int>(bit));
    const __mmask16 lanes = Set ? _mm512_test_epi32_mask(x.v, tested) : _mm512_testn_epi32_mask(x.v, tested);
    return {_mm512_mask_and_epi32(v, lanes, v, _mm512_set1_epi32(static_cast<int>(~mask)))};
  }
  /// The 16 big-endian words of each lane's block, word j of lane i at lane i of w[j].
  static void load_blocks(const std::byte* const* blocks, V* w) {
    const __m512i swap =
        _mm512_broadcast_i32x4(_mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
    __m512i r[16], t[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(blocks[i]);
    for (int i = 0; i < 16; i += 2) {  // pairs of rows, word by word
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // fours of rows
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // r[4q + j] has, in its quarter k, word 4k + j of rows 4q .. 4q + 3
    for (int j = 0; j < 4; ++j) {
      const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88),
                    b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
      const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd),
                    d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
      w[j].v = _mm512_shuffle_epi8(_mm512_shuffle_i32x4(a, b, 0x88), swap);
      w[8 + j].v = _mm512_shuffle_epi8(_mm512_shuffle_i32x4(a, b, 0xdd), swap);
      w[4 + j].v = _mm512_shuffle_epi8(_mm512_shuffle_i32x4(c, d, 0x88), swap);
      w[12 + j].v = _mm512_shuffle_epi8(_mm512_shuffle_i32x4(c, d, 0xdd), swap);
    }
  }
};

}  // namespace

const Lanes* find_avx512_lanes() noexcept {
  return &kLanesOf<V>;
}

}  // namespace base::internal

#else
namespace base::internal {
const Lanes* find_avx512_lanes() noexcept {
  return nullptr;
}
}  // namespace base::internal
#endif
