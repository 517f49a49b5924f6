#include "vat/internal/stream_cutter.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "formats/text/recipe.h"

namespace vat::internal {
namespace {

using formats::kHoleBlock;
using formats::kMinHole;

bool is_zero(const std::byte* block) {
  static constexpr std::array<std::byte, kHoleBlock> kZeros{};
  return std::memcmp(block, kZeros.data(), kHoleBlock) == 0;
}

}  // namespace

StreamCutter::StreamCutter(const chunker::Parameters& parameters, base::ByteSink on_chunk,
                           std::function<void(std::uint64_t)> on_hole, std::uint64_t start)
    : parameters_(parameters),
      on_chunk_(std::move(on_chunk)),
      on_hole_(std::move(on_hole)),
      start_(start),
      classified_((start + kHoleBlock - 1) / kHoleBlock * kHoleBlock) {}

void StreamCutter::feed(base::Bytes bytes) {
  // Pieces keep the buffer near twice the largest chunk, however much comes at once.
  while (!bytes.empty()) {
    const std::size_t count = std::min(bytes.size(), parameters_.max_size);
    base::append(buffer_, bytes.subspan(0, count));
    view_ = buffer_;
    bytes = bytes.subspan(count);
    classify();
    compact();
  }
}

void StreamCutter::feed_all(base::Bytes bytes) {
  view_ = bytes;
  classify();
  finish();
}

void StreamCutter::feed_zeros(std::uint64_t count) {
  static constexpr std::array<std::byte, kHoleBlock> kZeros{};
  while (count > 0) {
    const std::uint64_t offset = start_ + (view_.size() - begin_);
    if (hole_ > 0 && offset == classified_ && view_.size() == begin_ && count >= kHoleBlock) {
      const std::uint64_t whole = count / kHoleBlock * kHoleBlock;
      hole_ += whole;
      start_ += whole;
      classified_ += whole;
      count -= whole;
      continue;
    }
    const auto part = static_cast<std::size_t>(std::min(count, kHoleBlock - offset % kHoleBlock));
    feed({kZeros.data(), part});
    count -= part;
  }
}

void StreamCutter::classify() {
  const std::uint64_t end = start_ + (view_.size() - begin_);
  for (; classified_ + kHoleBlock <= end; classified_ += kHoleBlock) {
    const std::byte* block = view_.data() + begin_ + (classified_ - start_);
    if (!is_zero(block)) {
      end_zero_run();
      continue;
    }
    if (hole_ > 0) {  // the hole goes on; nothing of it is kept
      hole_ += kHoleBlock;
      begin_ += kHoleBlock;
      start_ += kHoleBlock;
      continue;
    }
    zeros_ += kHoleBlock;
    if (zeros_ < kMinHole) continue;
    cut(static_cast<std::size_t>(classified_ + kHoleBlock - zeros_ - start_), true);
    drop(static_cast<std::size_t>(zeros_));
    hole_ = zeros_;
    zeros_ = 0;
  }
  if (hole_ == 0 && classified_ - zeros_ > start_)
    cut(static_cast<std::size_t>(classified_ - zeros_ - start_), false);
}

void StreamCutter::compact() {
  if (begin_ <= parameters_.max_size && begin_ < buffer_.size()) return;
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
  begin_ = 0;
  view_ = buffer_;
}

void StreamCutter::end_zero_run() {
  if (hole_ > 0) on_hole_(hole_);
  hole_ = zeros_ = 0;
}

/// Hands out chunks of the first `limit` bytes: all of them if the run ends there, else those that are
/// certain.
void StreamCutter::cut(std::size_t limit, bool at_end) {
  while (limit > 0 && (at_end || limit >= parameters_.max_size)) {
    const std::size_t size = chunker::find_cut(parameters_, view_.subspan(begin_, limit));
    on_chunk_(view_.subspan(begin_, size));
    drop(size);
    limit -= size;
  }
}

void StreamCutter::drop(std::size_t count) {
  begin_ += count;
  start_ += count;
}

void StreamCutter::finish() {
  end_zero_run();
  cut(view_.size() - begin_, true);
}

}  // namespace vat::internal
