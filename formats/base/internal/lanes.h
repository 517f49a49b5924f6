// Many hashes side by side in the lanes of vector registers; private to formats/base.
#pragma once

#include <cstddef>
#include <cstdint>

namespace base::internal {

/// The most lanes any machine has.
inline constexpr std::size_t kMaxLanes = 16;

/// A block that might complete a SHA-1 collision attack along the vectors of `mask`, and the state before it.
struct Suspect {
  std::size_t lane;
  std::uint32_t mask;
  const std::byte* block;
  std::uint32_t state[5];
};
using OnSuspect = void (*)(void* context, const Suspect& suspect);

/// One set of instructions. States lie word by word: word j of lane i at [j * lanes + i]; each lane reads
/// `count` blocks of 64 bytes from its own place.
struct Lanes {
  std::size_t lanes;
  void (*sha256)(std::uint32_t* states, const std::byte* const* blocks, std::size_t count);
  /// Tells of each suspect block, in no order (internal/sha1.h).
  void (*sha1)(std::uint32_t* states, const std::byte* const* blocks, std::size_t count, OnSuspect on_suspect,
               void* context);
  /// Whether blocks complete attacks, each along one vector of those whose states meet before `step`: lane i
  /// hashes blocks[i] from its state along vectors[i]; it does if differs[i] comes out 0.
  void (*sha1_check)(int step, const std::uint32_t* states, const std::byte* const* blocks,
                     const std::uint32_t* vectors, std::uint32_t* differs);
  /// For blocks that follow one another in memory, as many as there are lanes: the attack vectors each of
  /// them fits.
  void (*sha1_suspects)(const std::byte* blocks, std::uint32_t* masks);
};

/// nullptr where it was not compiled. Only for machines that base::simd() says have the instructions.
[[nodiscard]] const Lanes* find_avx512_lanes() noexcept;
[[nodiscard]] const Lanes* find_avx2_lanes() noexcept;

}  // namespace base::internal
