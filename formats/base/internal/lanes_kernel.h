// SHA-256 (FIPS 180-4) and SHA-1 with its attack conditions, for any vector of 32-bit words. Included by one
// file for each set of instructions, which is compiled for it and defines the vector type V; all is local to
// that file, so that no code for one machine is ever linked into a program's path for another.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/base/internal/lanes.h"

namespace base::internal {
namespace {

struct Vector {
  int step;
  std::uint32_t difference[80];
};
struct Condition {
  int first_word, first_bit, second_word, second_bit;
  unsigned value;
  std::uint32_t mask;
};
#include "formats/base/internal/sha1_conditions.inc"

constexpr std::uint32_t kSha256Round[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

template <typename V>
inline void advance(const std::byte** blocks) {
  for (std::size_t i = 0; i < V::kLanes; ++i) blocks[i] += 64;
}

template <typename V, int Step = 0>
inline void sha256_steps(V* s, V* w) {
  if constexpr (Step < 64) {
    if constexpr (Step >= 16) {
      const V w15 = w[(Step + 1) % 16], w2 = w[(Step + 14) % 16];
      w[Step % 16] = w[Step % 16] + w[(Step + 9) % 16] +
                     V::xor3(w15.template rotl<25>(), w15.template rotl<14>(), w15.template shr<3>()) +
                     V::xor3(w2.template rotl<15>(), w2.template rotl<13>(), w2.template shr<10>());
    }
    // No word moves: position (j - Step) mod 8 plays the role of word j.
    const V a = s[(64 - Step) % 8], b = s[(65 - Step) % 8], c = s[(66 - Step) % 8], e = s[(68 - Step) % 8],
            f = s[(69 - Step) % 8], g = s[(70 - Step) % 8];
    V &d = s[(67 - Step) % 8], &h = s[(71 - Step) % 8];
    h = h + V::xor3(e.template rotl<26>(), e.template rotl<21>(), e.template rotl<7>()) + V::choose(e, f, g) +
        (V::all(kSha256Round[Step]) + w[Step % 16]);
    d = d + h;
    h = h + V::xor3(a.template rotl<30>(), a.template rotl<19>(), a.template rotl<10>()) +
        V::majority(a, b, c);
    sha256_steps<V, Step + 1>(s, w);
  }
}

template <typename V>
void sha256(std::uint32_t* states, const std::byte* const* from, std::size_t count) {
  const std::byte* blocks[V::kLanes];
  for (std::size_t i = 0; i < V::kLanes; ++i) blocks[i] = from[i];
  V h[8];
  for (std::size_t j = 0; j < 8; ++j) h[j] = V::load(states + j * V::kLanes);
  for (; count > 0; --count, advance<V>(blocks)) {
    V w[16], s[8];
    V::load_blocks(blocks, w);
    for (std::size_t j = 0; j < 8; ++j) s[j] = h[j];
    sha256_steps(s, w);
    for (std::size_t j = 0; j < 8; ++j) h[j] = h[j] + s[j];
  }
  for (std::size_t j = 0; j < 8; ++j) h[j].store(states + j * V::kLanes);
}

template <typename V>
inline void expand(V* w) {
  for (int t = 16; t < 80; ++t)
    w[t] = (V::xor3(w[t - 3], w[t - 8], w[t - 14]) ^ w[t - 16]).template rotl<1>();
}

template <typename V, std::size_t I>
inline void apply_condition(const V* w, V& vectors) {
  constexpr const Condition& c = kConditions[I];
  const V both = w[c.first_word] ^ w[c.second_word].template rotl<(c.first_bit - c.second_bit + 32) % 32>();
  vectors = vectors.template drop_where<c.value == 0>(both, std::uint32_t{1} << c.first_bit, c.mask);
}
template <typename V, std::size_t I = 0>
inline void apply_conditions(const V* w, V& vectors) {
  if constexpr (I < sizeof kConditions / sizeof kConditions[0]) {
    apply_condition<V, I>(w, vectors);
    apply_conditions<V, I + 1>(w, vectors);
  }
}
/// Per lane, the attack vectors that fit all conditions of its expanded block.
template <typename V>
inline V suspects(const V* w) {
  V vectors = V::all(0xffffffff);
  apply_conditions<V>(w, vectors);
  return vectors;
}

template <int Step>
constexpr std::uint32_t kSha1Round = Step < 20   ? 0x5a827999
                                     : Step < 40 ? 0x6ed9eba1
                                     : Step < 60 ? 0x8f1bbcdc
                                                 : 0xca62c1d6;
/// What a step adds to its fifth word; position (j - Step) mod 5 plays the role of word j.
template <int Step, typename V>
inline V sha1_sum(const V* s, const V* w) {
  const V &a = s[(80 - Step) % 5], &b = s[(81 - Step) % 5], &c = s[(82 - Step) % 5], &d = s[(83 - Step) % 5];
  const V f = Step < 20                 ? V::choose(b, c, d)
              : Step < 40 || Step >= 60 ? V::xor3(b, c, d)
                                        : V::majority(b, c, d);
  return a.template rotl<5>() + f + (w[Step] + V::all(kSha1Round<Step>));
}
template <int From, int To, typename V>
inline void sha1_forward(V* s, const V* w) {
  if constexpr (From < To) {
    s[(84 - From) % 5] = s[(84 - From) % 5] + sha1_sum<From>(s, w);
    s[(81 - From) % 5] = s[(81 - From) % 5].template rotl<30>();
    sha1_forward<From + 1, To>(s, w);
  }
}
template <int From, typename V>
inline void sha1_backward(V* s, const V* w) {
  if constexpr (From > 0) {
    s[(82 - From) % 5] = s[(82 - From) % 5].template rotl<2>();
    s[(85 - From) % 5] = s[(85 - From) % 5] - sha1_sum<From - 1>(s, w);
    sha1_backward<From - 1>(s, w);
  }
}

template <typename V>
void sha1(std::uint32_t* states, const std::byte* const* from, std::size_t count, OnSuspect on_suspect,
          void* context) {
  const std::byte* blocks[V::kLanes];
  for (std::size_t i = 0; i < V::kLanes; ++i) blocks[i] = from[i];
  V h[5];
  for (std::size_t j = 0; j < 5; ++j) h[j] = V::load(states + j * V::kLanes);
  for (; count > 0; --count, advance<V>(blocks)) {
    V w[80], s[5];
    V::load_blocks(blocks, w);
    expand(w);
    const V found = suspects(w);
    if (found.any()) {
      std::uint32_t masks[V::kLanes], before[5][V::kLanes];
      found.store(masks);
      for (std::size_t j = 0; j < 5; ++j) h[j].store(before[j]);
      for (std::size_t i = 0; i < V::kLanes; ++i)
        if (masks[i] != 0)
          on_suspect(context, {i,
                               masks[i],
                               blocks[i],
                               {before[0][i], before[1][i], before[2][i], before[3][i], before[4][i]}});
    }
    for (std::size_t j = 0; j < 5; ++j) s[j] = h[j];
    sha1_forward<0, 80>(s, w);
    for (std::size_t j = 0; j < 5; ++j) h[j] = h[j] + s[j];
  }
  for (std::size_t j = 0; j < 5; ++j) h[j].store(states + j * V::kLanes);
}

template <typename V, int Step>
void check_along(const std::uint32_t* states, const std::byte* const* blocks, const std::uint32_t* vectors,
                 std::uint32_t* differs) {
  V w[80], s[5], before[5];
  V::load_blocks(blocks, w);
  expand(w);
  for (std::size_t j = 0; j < 5; ++j) s[j] = before[j] = V::load(states + j * V::kLanes);
  sha1_forward<0, Step>(s, w);
  V start[5], end[5];  // of the partner
  for (std::size_t j = 0; j < 5; ++j) start[j] = end[j] = s[j];
  sha1_forward<Step, 80>(s, w);
  for (std::size_t t = 0; t < 16; ++t) {
    std::uint32_t difference[V::kLanes];
    for (std::size_t i = 0; i < V::kLanes; ++i) difference[i] = kVectors[vectors[i]].difference[t];
    w[t] = w[t] ^ V::load(difference);
  }
  expand(w);
  sha1_backward<Step>(start, w);
  sha1_forward<Step, 80>(end, w);
  V unequal = V::all(0);
  for (std::size_t j = 0; j < 5; ++j) unequal = unequal | ((before[j] + s[j]) ^ (start[j] + end[j]));
  unequal.store(differs);
}
template <typename V>
void sha1_check(int step, const std::uint32_t* states, const std::byte* const* blocks,
                const std::uint32_t* vectors, std::uint32_t* differs) {
  (step == 58 ? check_along<V, 58> : check_along<V, 65>)(states, blocks, vectors, differs);
}

template <typename V>
void sha1_suspects(const std::byte* from, std::uint32_t* masks) {
  const std::byte* blocks[V::kLanes];
  for (std::size_t i = 0; i < V::kLanes; ++i) blocks[i] = from + 64 * i;
  V w[80];
  V::load_blocks(blocks, w);
  expand(w);
  suspects(w).store(masks);
}

template <typename V>
constexpr Lanes kLanesOf{V::kLanes, sha256<V>, sha1<V>, sha1_check<V>, sha1_suspects<V>};

}  // namespace
}  // namespace base::internal
