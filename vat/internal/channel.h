// Lines and blocks between `vat serve` and whoever asks it. docs/formats/serve.md
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "formats/base/bytes.h"

namespace vat::internal {

/// One thread at a time. Throws corrupt for what is no line or block, or is too long, or cut off.
class WireChannel {
 public:
  /// `read`: the next bytes, as many as fit at most; 0 at the end.
  WireChannel(std::function<std::size_t(base::MutableBytes)> read, base::ByteSink write)
      : read_(std::move(read)), write_(std::move(write)) {}

  void write_line(const std::string& line);
  /// Without its LF; nullopt at the end.
  [[nodiscard]] std::optional<std::string> read_line();

  /// A stream is blocks and an empty one.
  void write_block(base::Bytes bytes);
  void end_blocks();
  /// Appends the next block; false at the end of the stream.
  [[nodiscard]] bool read_block(base::Buffer& to);

  static constexpr std::size_t kMaxLine = 1024;
  static constexpr std::size_t kMaxBlock = std::size_t{1} << 20;  ///< bytes

 private:
  bool fill();
  [[nodiscard]] base::Bytes take(std::size_t size);

  std::function<std::size_t(base::MutableBytes)> read_;
  base::ByteSink write_;
  base::Buffer buffer_;
  std::size_t at_ = 0;
};

}  // namespace vat::internal
