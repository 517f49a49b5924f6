// Integers as they stand in files and protocols: fixed width, little-endian and big-endian, and LEB128
// varints.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "formats/base/bytes.h"

namespace base {

static_assert(std::endian::native == std::endian::little, "big-endian hosts are not supported");

/// The caller has checked that sizeof(T) bytes are there.
template <typename T>
[[nodiscard]] T load_le(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// The caller has seen to room for sizeof(T) bytes.
template <typename T>
void store_le(std::byte* to, T value) noexcept {
  std::memcpy(to, &value, sizeof value);
}

template <typename T>
void append_le(Buffer& to, T value) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

/// The caller has checked that sizeof(T) bytes are there.
template <typename T>
[[nodiscard]] T load_be(const std::byte* from) noexcept {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(static_cast<T>(value << 8) | std::to_integer<T>(from[i]));
  return value;
}

template <typename T>
void append_be(Buffer& to, T value) {
  for (std::size_t i = sizeof value; i-- > 0;) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}

/// Appends `value` as an unsigned LEB128: seven bits a byte, lowest first, high bit set on all but the last.
inline void append_varint(Buffer& to, std::uint64_t value) {
  while (value >= 0x80) {
    to.push_back(static_cast<std::byte>(value | 0x80));
    value >>= 7;
  }
  to.push_back(static_cast<std::byte>(value));
}

/// Takes one varint off the front of `from`; nullopt if it is cut off, longer than 64 bits, or not the
/// shortest form of its value.
[[nodiscard]] inline std::optional<std::uint64_t> take_varint(Bytes& from) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < from.size() && i < 10; ++i) {
    const auto byte = static_cast<std::uint8_t>(from[i]);
    if (i == 9 && byte > 1) return std::nullopt;
    value |= std::uint64_t{byte & 0x7fU} << (7 * i);
    if (byte & 0x80) continue;
    if (byte == 0 && i > 0) return std::nullopt;
    from = from.subspan(i + 1);
    return value;
  }
  return std::nullopt;
}

}  // namespace base
