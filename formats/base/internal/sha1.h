// SHA-1 that notices collision attacks; private to formats/base.
#pragma once

#include <array>
#include <cstdint>

#include "formats/base/bytes.h"

namespace base::internal {

/// Streaming SHA-1 with collision detection.
///
/// Each block is tested against the 32 disturbance vectors that known attacks use (Stevens,
/// "Counter-cryptanalysis", CRYPTO 2013): if the block were one half of a colliding pair along such a vector,
/// its partner is known, and running that partner backwards and forwards from a middle step shows whether
/// both end in the same state. Cheap conditions on message bits (scripts/derive-sha1-conditions) rule nearly
/// all vectors out first. Ordinary content is never reported; the digest is plain SHA-1 whether or not
/// something was found.
class Sha1 {
 public:
  using Digest = std::array<std::byte, 20>;
  using State = std::array<std::uint32_t, 5>;

  Sha1() noexcept { reset(); }
  void reset() noexcept;
  void update(Bytes bytes) noexcept;
  [[nodiscard]] Digest finish() noexcept;
  /// Whether any block since reset() completes a collision attack. Meaningful after finish().
  [[nodiscard]] bool collision_found() const noexcept { return collision_found_; }

  /// Bit i is set iff vector i fits all message conditions of `expanded` (80 words). Exposed for tests.
  [[nodiscard]] static std::uint32_t suspects(const std::uint32_t* expanded) noexcept;
  /// Whether `block` completes a collision attack along one of the vectors of `mask`, when hashed from
  /// `before`. Exposed for tests.
  [[nodiscard]] static bool completes_attack(const State& before, const std::byte* block,
                                             std::uint32_t mask) noexcept;
  /// Before which step the states of a colliding pair along a vector are equal: 58 or 65.
  [[nodiscard]] static int meeting_step(unsigned vector) noexcept;

 private:
  void compress(const std::byte* block) noexcept;

  State state_{};
  std::uint64_t size_ = 0;
  std::array<std::byte, 64> pending_{};
  bool collision_found_ = false;
};

/// Throws refused.
[[noreturn]] void refuse_attack();

}  // namespace base::internal
