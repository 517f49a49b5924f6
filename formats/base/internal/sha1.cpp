#include "formats/base/internal/sha1.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "formats/base/error.h"

namespace base::internal {
namespace {

struct Vector {
  int step;  ///< before this step the states of a colliding pair are equal
  std::uint32_t difference[80];
};
/// Two message bits whose exclusive or is `value` in each attack along the vectors of `mask`.
struct Condition {
  int first_word, first_bit, second_word, second_bit;
  unsigned value;
  std::uint32_t mask;
};
#include "formats/base/internal/sha1_conditions.inc"

using State = Sha1::State;
constexpr State kInitial{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};

template <int Step>
constexpr std::uint32_t round_value(std::uint32_t b, std::uint32_t c, std::uint32_t d) noexcept {
  if constexpr (Step < 20)
    return ((c ^ d) & b) ^ d;
  else if constexpr (Step < 40 || Step >= 60)
    return b ^ c ^ d;
  else
    return (b & c) | ((b | c) & d);
}
template <int Step>
constexpr std::uint32_t kRoundConstant = Step < 20   ? 0x5a827999
                                         : Step < 40 ? 0x6ed9eba1
                                         : Step < 60 ? 0x8f1bbcdc
                                                     : 0xca62c1d6;

/// One step without moving words: position (i - Step) mod 5 plays the role of word i.
template <int Step>
inline void forward(State& s, const std::uint32_t* w) noexcept {
  constexpr int a = (80 - Step) % 5, b = (81 - Step) % 5, c = (82 - Step) % 5, d = (83 - Step) % 5,
                e = (84 - Step) % 5;
  s[e] += std::rotl(s[a], 5) + round_value<Step>(s[b], s[c], s[d]) + kRoundConstant<Step> + w[Step];
  s[b] = std::rotl(s[b], 30);
}
template <int Step>
inline void backward(State& s, const std::uint32_t* w) noexcept {
  constexpr int a = (80 - Step) % 5, b = (81 - Step) % 5, c = (82 - Step) % 5, d = (83 - Step) % 5,
                e = (84 - Step) % 5;
  s[b] = std::rotr(s[b], 30);
  s[e] -= std::rotl(s[a], 5) + round_value<Step>(s[b], s[c], s[d]) + kRoundConstant<Step> + w[Step];
}
template <int From, int... I>
inline void forward_all(State& s, const std::uint32_t* w, std::integer_sequence<int, I...>) noexcept {
  (forward<From + I>(s, w), ...);
}
template <int From, int... I>
inline void backward_all(State& s, const std::uint32_t* w, std::integer_sequence<int, I...>) noexcept {
  (backward<From - 1 - I>(s, w), ...);
}
template <int From, int To>
inline void run_forward(State& s, const std::uint32_t* w) noexcept {
  forward_all<From>(s, w, std::make_integer_sequence<int, To - From>{});
}

/// Whether the partner of a block along `vector` reaches `result` too: the block completes a collision.
template <int Step>
bool collides(const Vector& vector, const State& middle, const std::uint32_t* w,
              const State& result) noexcept {
  std::uint32_t partner[80];
  for (int t = 0; t < 80; ++t) partner[t] = w[t] ^ vector.difference[t];
  State start = middle;
  backward_all<Step>(start, partner, std::make_integer_sequence<int, Step>{});
  State end = middle;
  run_forward<Step, 80>(end, partner);
  for (std::size_t i = 0; i < 5; ++i)
    if (start[i] + end[i] != result[i]) return false;
  return true;
}

template <std::size_t I>
inline std::uint32_t survivors(const std::uint32_t* w) noexcept {
  constexpr const Condition& c = kConditions[I];
  const std::uint32_t broken =
      ((w[c.first_word] >> c.first_bit) ^ (w[c.second_word] >> c.second_bit) ^ c.value) & 1;
  return (broken - 1) | ~c.mask;
}
template <std::size_t... I>
inline std::uint32_t all_survivors(const std::uint32_t* w, std::index_sequence<I...>) noexcept {
  return (survivors<I>(w) & ...);
}

}  // namespace

std::uint32_t Sha1::suspects(const std::uint32_t* expanded) noexcept {
  return all_survivors(expanded, std::make_index_sequence<std::size(kConditions)>{});
}

void Sha1::reset() noexcept {
  state_ = kInitial;
  size_ = 0;
  collision_found_ = false;
}

void Sha1::update(Bytes bytes) noexcept {
  const std::size_t filled = size_ % 64;
  size_ += bytes.size();
  if (filled > 0) {
    const std::size_t taken = std::min(64 - filled, bytes.size());
    std::copy_n(bytes.begin(), taken, pending_.begin() + static_cast<std::ptrdiff_t>(filled));
    if (filled + taken < 64) return;
    compress(pending_.data());
    bytes = bytes.subspan(taken);
  }
  for (; bytes.size() >= 64; bytes = bytes.subspan(64)) compress(bytes.data());
  std::copy(bytes.begin(), bytes.end(), pending_.begin());
}

Sha1::Digest Sha1::finish() noexcept {
  const std::uint64_t bit_size = size_ * 8;
  std::array<std::byte, 72> padding{};
  padding[0] = std::byte{0x80};
  const std::size_t zeros = (119 - size_ % 64) % 64;  // so that 0x80, the zeros and the length end a block
  for (std::size_t i = 0; i < 8; ++i)
    padding[1 + zeros + i] = static_cast<std::byte>(bit_size >> (56 - 8 * i));
  update({padding.data(), zeros + 9});
  Digest digest;
  for (std::size_t i = 0; i < 20; ++i)
    digest[i] = static_cast<std::byte>(state_[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

namespace {

/// A block in the course of being hashed, with the states that checks begin from.
struct Trace {
  std::uint32_t w[80];
  State at_58, at_65, after;

  explicit Trace(const std::byte* block) noexcept {
    for (int t = 0; t < 16; ++t) {
      std::memcpy(&w[t], block + 4 * t, 4);
      w[t] = __builtin_bswap32(w[t]);
    }
    for (int t = 16; t < 80; ++t) w[t] = std::rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
  }

  void run(const State& before) noexcept {
    at_58 = before;
    run_forward<0, 58>(at_58, w);
    at_65 = at_58;
    run_forward<58, 65>(at_65, w);
    after = at_65;
    run_forward<65, 80>(after, w);
    for (std::size_t i = 0; i < 5; ++i) after[i] += before[i];
  }

  [[nodiscard]] bool collides_along(std::uint32_t vectors) const noexcept {
    for (; vectors != 0; vectors &= vectors - 1) {
      const Vector& vector = kVectors[std::countr_zero(vectors)];
      if (vector.step == 58 ? collides<58>(vector, at_58, w, after) : collides<65>(vector, at_65, w, after))
        return true;
    }
    return false;
  }
};

}  // namespace

bool Sha1::completes_attack(const State& before, const std::byte* block, std::uint32_t mask) noexcept {
  Trace trace(block);
  trace.run(before);
  return trace.collides_along(mask);
}

int Sha1::meeting_step(unsigned vector) noexcept {
  return kVectors[vector].step;
}

void refuse_attack() {
  throw Error(Category::refused, "content is part of a SHA-1 collision attack; it was not accepted",
              "a sha256 vat can hold it: vat init --object-format sha256 DIR");
}

void Sha1::compress(const std::byte* block) noexcept {
  Trace trace(block);
  trace.run(state_);
  state_ = trace.after;
  collision_found_ |= trace.collides_along(suspects(trace.w));
}

}  // namespace base::internal
