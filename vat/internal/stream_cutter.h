// Cuts a stream into chunks and holes: the data model's rule for zeros in front of the chunker.
#pragma once

#include <cstdint>
#include <functional>

#include "chunker/chunker.h"
#include "formats/base/bytes.h"

namespace vat::internal {

/// A maximal run of whole, 4096-aligned zero blocks of 64 KiB or more is a hole; the bytes between holes are
/// chunked as streams of their own. The result depends on the bytes only, not on how they are fed. One thread
/// at a time. `start`: where in a larger content the stream begins; blocks are aligned in that.
class StreamCutter {
 public:
  StreamCutter(const chunker::Parameters& parameters, base::ByteSink on_chunk,
               std::function<void(std::uint64_t)> on_hole, std::uint64_t start = 0);
  void feed(base::Bytes bytes);
  /// The same as feeding that many zeros, but nearly free.
  void feed_zeros(std::uint64_t count);
  /// The stream is complete.
  void finish();
  /// All of a stream: as feed() and finish(), but what on_chunk gets are parts of `bytes`, in place.
  void feed_all(base::Bytes bytes);

 private:
  void classify();
  void compact();
  void end_zero_run();
  void cut(std::size_t limit, bool at_end);
  void drop(std::size_t count);

  const chunker::Parameters parameters_;
  base::ByteSink on_chunk_;
  std::function<void(std::uint64_t)> on_hole_;
  base::Buffer buffer_;
  base::Bytes view_;       ///< buffer_, or all of the stream
  std::size_t begin_ = 0;  ///< where in view_ the bytes not yet handed out begin, at stream offset start_
  std::uint64_t start_ = 0;
  std::uint64_t classified_ = 0;  ///< blocks before this offset were looked at; a multiple of the block size
  std::uint64_t zeros_ = 0;       ///< bytes of the zero run that ends at classified_, while they are in view_
  std::uint64_t hole_ = 0;        ///< bytes of the hole that ends at start_ and may go on
};

}  // namespace vat::internal
