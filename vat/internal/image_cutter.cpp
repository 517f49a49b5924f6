#include "vat/internal/image_cutter.h"

#include <algorithm>

#include "formats/base/error.h"

namespace vat::internal {
namespace {

constexpr std::size_t kAhead = KnownBlocks::kMaxSize + KnownBlocks::kBlock;

bool is_zero(base::Bytes block) {
  return std::all_of(block.begin(), block.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

ImageCutter::ImageCutter(const chunker::Parameters& parameters, base::ObjectFormat format, KnownBlocks* known,
                         Sinks sinks, std::uint64_t start)
    : parameters_(parameters), known_(known), sinks_(std::move(sinks)), hasher_(format), at_(start) {
  begin_stream(start);
}

void ImageCutter::begin_stream(std::uint64_t start) {
  stream_.emplace(parameters_, sinks_.chunk, sinks_.hole, start);
}

void ImageCutter::feed(base::Bytes bytes) {
  if (known_ == nullptr) return stream_->feed(bytes);
  base::append(held_, bytes);
  if (held_.size() >= 2 * kAhead) scan(false);
}

void ImageCutter::feed_zeros(std::uint64_t count) {
  scan(true);
  stream_->feed_zeros(count);
  at_ += count;
}

void ImageCutter::finish() {
  scan(true);
  stream_->finish();
}

/// Passes on what is held, but for what may be the begin of a blob that goes on in what comes.
void ImageCutter::scan(bool at_end) {
  constexpr auto kBlock = KnownBlocks::kBlock;
  const auto next_block = [&](std::size_t place) {
    return place + static_cast<std::size_t>((kBlock - (at_ + place) % kBlock) % kBlock);
  };
  std::size_t passed = 0;
  const auto pass_on = [&](std::size_t end) {
    if (end > passed) stream_->feed(base::Bytes(held_).subspan(passed, end - passed));
    passed = std::max(passed, end);
  };
  auto place = next_block(scanned_);
  const std::size_t keep = at_end ? 0 : kAhead;
  while (known_ != nullptr && place + keep < held_.size()) {
    const auto found = find_known(base::Bytes(held_).subspan(place));
    if (!found) {
      place += kBlock;
      continue;
    }
    pass_on(place);
    stream_->finish();
    sinks_.known(found->id, found->size);
    passed += found->size;
    begin_stream(at_ + passed);
    place = next_block(passed);
  }
  pass_on(std::min(place, held_.size()));
  held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(passed));
  at_ += passed;
  scanned_ = place - passed;
}

std::optional<KnownBlocks::Candidate> ImageCutter::find_known(base::Bytes bytes) {
  base::Buffer short_block;
  auto block = bytes.first(std::min(bytes.size(), KnownBlocks::kBlock));
  if (block.empty() || (block.front() == std::byte{0} && is_zero(block))) return std::nullopt;
  if (block.size() < KnownBlocks::kBlock) {  // the disk ends in it
    short_block.assign(block.begin(), block.end());
    short_block.resize(KnownBlocks::kBlock);
    block = short_block;
  }
  std::optional<KnownBlocks::Candidate> found;
  known_->find(block, [&](const KnownBlocks::Candidate& candidate) {
    if (found || candidate.size > bytes.size()) return;
    try {
      if (hasher_.hash(bytes.first(candidate.size)) == candidate.id && known_->is_stored(candidate))
        found = candidate;
    } catch (const base::Error&) {  // refused by the hash; whoever stores it says so
    }
  });
  return found;
}

}  // namespace vat::internal
