// Content-defined cut points (VG-CDC, frozen as `vg1`): where a stream is cut depends on its bytes only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "formats/base/bytes.h"

namespace chunker {

/// Sizes and thresholds of one profile; all sizes in bytes. docs/formats/chunker.md has the definition.
struct Parameters {
  int exponent;               ///< the average chunk is 2^exponent bytes
  std::size_t min_size;       ///< a quarter of the average; only a stream's end is shorter
  std::size_t normal_size;    ///< before it cuts are rare, after it frequent
  std::size_t max_size;       ///< four times the average
  std::uint64_t rare_below;   ///< strong hashes below this cut before normal_size
  std::uint64_t often_below;  ///< … and below this after it

  [[nodiscard]] std::size_t average_size() const noexcept { return std::size_t{1} << exponent; }
  /// The frozen spelling, for example `vg1:a=16`.
  [[nodiscard]] std::string id() const;

  friend bool operator==(const Parameters&, const Parameters&) = default;
};

inline constexpr int kMinExponent = 13;
inline constexpr int kMaxExponent = 20;
inline constexpr int kDefaultExponent = 16;

/// The profile for chunks of 2^exponent bytes, kMinExponent ≤ exponent ≤ kMaxExponent.
[[nodiscard]] Parameters make_parameters(int exponent) noexcept;

/// The profile an id string names; nullopt if this version does not know it.
[[nodiscard]] std::optional<Parameters> find_parameters(std::string_view id) noexcept;

/// Size of the first chunk of `rest`, which holds either all that is left of the stream or at least max_size
/// bytes of it. 0 only for an empty `rest`. Any thread; never reads outside `rest`.
[[nodiscard]] std::size_t find_cut(const Parameters& parameters, base::Bytes rest) noexcept;

}  // namespace chunker
