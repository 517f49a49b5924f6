// Which vector instructions code may choose at run time.
#pragma once

#include <cstdint>

namespace base {

enum class Simd : std::uint8_t {
  none,
  avx2,
  avx512  ///< F, BW and GFNI, and AVX2
};

/// The widest that machine and kernel have, unless SHRUB_SIMD=avx2 or SHRUB_SIMD=none in the environment asks
/// for less, as tests do. The same for the life of the process. Any thread.
[[nodiscard]] Simd simd() noexcept;

/// Whether one SHA-256 at a time is hashed by instructions made for it, as OpenSSL then does.
[[nodiscard]] bool has_sha_instructions() noexcept;

}  // namespace base
