// Streams out of the compressed files people make with stock tools: gzip, bzip2, xz, zstd, or none at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "formats/base/bytes.h"

namespace formats {

enum class Codec : std::uint8_t { none, gzip, bzip2, xz, zstd };

/// The codec of a file name suffix: "", ".gz", ".bz2", ".xz" or ".zst".
[[nodiscard]] std::optional<Codec> find_codec(std::string_view suffix) noexcept;
[[nodiscard]] std::string_view suffix_of(Codec codec) noexcept;

/// Fills the buffer as far as the input goes; 0 is its end.
using ByteSource = std::function<std::size_t(base::MutableBytes)>;

/// Decompresses a stream, all concatenated members of it, as the stock tool does. Memory is bounded whatever
/// the input says: xz dictionaries up to 96 MiB, zstd windows up to 128 MiB; more is refused. NULs up to the
/// end, behind gzip and bzip2, are padding. One thread at a time. Throws corrupt if the input is damaged, cut
/// off or followed by something else.
class Decoder {
 public:
  virtual ~Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  /// Fills `buffer` as far as the content goes; less than all of it only at the end.
  [[nodiscard]] virtual std::size_t read(base::MutableBytes buffer) = 0;

 protected:
  Decoder() = default;
};

[[nodiscard]] std::unique_ptr<Decoder> make_decoder(Codec codec, ByteSource source);

}  // namespace formats
