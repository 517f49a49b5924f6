// Single zstd frames in memory, as packs hold them.
#pragma once

#include <cstddef>
#include <memory>

#include "formats/base/bytes.h"

namespace formats {

inline constexpr int kDefaultLevel = 3;

/// Compresses buffers to zstd frames that carry their content size and a checksum. Reusing one saves its
/// set-up. The frame depends on content, level and libzstd version only. One thread at a time.
class ZstdCompressor {
 public:
  explicit ZstdCompressor(int level = kDefaultLevel);
  /// For frames whose prefix and content are `reach` bytes at most, together.
  ZstdCompressor(int level, std::size_t reach);
  ~ZstdCompressor();
  ZstdCompressor(ZstdCompressor&&) noexcept;
  ZstdCompressor& operator=(ZstdCompressor&&) noexcept;
  /// The next frame may refer to `prefix`, which is to live until then; who decompresses it needs the same.
  void use_prefix(base::Bytes prefix);
  /// Appends one frame to `to` and returns its size in bytes.
  std::size_t compress(base::Bytes content, base::Buffer& to);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Decompresses one frame. One thread at a time.
class ZstdDecompressor {
 public:
  ZstdDecompressor();
  ~ZstdDecompressor();
  ZstdDecompressor(ZstdDecompressor&&) noexcept;
  ZstdDecompressor& operator=(ZstdDecompressor&&) noexcept;
  /// What the next frame was compressed with; it is to live until then.
  void use_prefix(base::Bytes prefix);
  /// The content of `frame`, which must be one whole frame of exactly `size` bytes of content; else corrupt.
  /// Never writes past `size`; the caller has checked that `size` is a sane amount of memory.
  [[nodiscard]] base::Buffer decompress(base::Bytes frame, std::size_t size);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace formats
