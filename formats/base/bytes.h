// Views of raw bytes; the currency of every reader and writer here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace base {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;
using Buffer = std::vector<std::byte>;

/// Receives consecutive pieces of a stream. The view dies when the call returns.
using ByteSink = std::function<void(Bytes)>;

/// Fills the buffer from a file at an offset; false if the file ends before.
using ReadAt = std::function<bool(std::uint64_t offset, MutableBytes)>;

[[nodiscard]] inline Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
[[nodiscard]] inline std::string_view as_chars(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline void append(Buffer& to, Bytes bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace base
