// Cuts the bytes of an image: where a blob of the vat lies in it at a multiple of 4096 bytes, that blob is a
// piece; between them it is cut as any stream.
#pragma once

#include <functional>
#include <optional>

#include "formats/base/hash.h"
#include "vat/internal/known_blocks.h"
#include "vat/internal/stream_cutter.h"

namespace vat::internal {

/// One thread at a time.
class ImageCutter {
 public:
  struct Sinks {
    base::ByteSink chunk;
    std::function<void(std::uint64_t)> hole;
    std::function<void(const base::ObjectId&, std::uint64_t)> known;  ///< a blob of the vat, of that size
  };
  /// `known` may be nullptr, and outlives it otherwise. `start`: where in the image the bytes begin.
  ImageCutter(const chunker::Parameters& parameters, base::ObjectFormat format, KnownBlocks* known,
              Sinks sinks, std::uint64_t start);
  void feed(base::Bytes bytes);
  void feed_zeros(std::uint64_t count);
  void finish();

 private:
  void scan(bool at_end);
  [[nodiscard]] std::optional<KnownBlocks::Candidate> find_known(base::Bytes bytes);
  void begin_stream(std::uint64_t start);

  const chunker::Parameters parameters_;
  KnownBlocks* known_;
  const Sinks sinks_;
  base::ObjectHasher hasher_;
  std::optional<StreamCutter> stream_;
  base::Buffer held_;        ///< bytes that may be the begin of a known blob
  std::uint64_t at_ = 0;     ///< where in the image they begin
  std::size_t scanned_ = 0;  ///< of them, before which no blob begins
};

}  // namespace vat::internal
