#include "vat/internal/channel.h"

#include <algorithm>

#include "formats/base/endian.h"
#include "formats/base/error.h"

namespace vat::internal {

using base::Category;
using base::Error;

void WireChannel::write_line(const std::string& line) {
  write_(base::as_bytes(line + "\n"));
}

std::optional<std::string> WireChannel::read_line() {
  for (std::size_t searched = 0;;) {
    const auto text = base::as_chars(base::Bytes(buffer_).subspan(at_));
    const auto end = text.find('\n', searched);
    if (std::min(end, text.size()) > kMaxLine) throw Error(Category::corrupt, "an answer that is no answer");
    if (end != std::string_view::npos) {
      std::string line(text.substr(0, end));
      at_ += end + 1;
      return line;
    }
    searched = text.size();
    if (!fill()) {
      if (searched == 0) return std::nullopt;
      throw Error(Category::corrupt, "cut off");
    }
  }
}

void WireChannel::write_block(base::Bytes bytes) {
  while (!bytes.empty()) {
    const auto part = bytes.subspan(0, std::min(bytes.size(), kMaxBlock));
    base::Buffer size;
    base::append_le(size, static_cast<std::uint32_t>(part.size()));
    write_(size);
    write_(part);
    bytes = bytes.subspan(part.size());
  }
}

void WireChannel::end_blocks() {
  write_(base::Buffer(4));
}

bool WireChannel::read_block(base::Buffer& to) {
  const std::size_t size = base::load_le<std::uint32_t>(take(4).data());
  if (size > kMaxBlock) throw Error(Category::corrupt, "a block that is too long");
  base::append(to, take(size));
  return size > 0;
}

bool WireChannel::fill() {
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(at_));
  at_ = 0;
  const auto before = buffer_.size();
  buffer_.resize(before + (std::size_t{256} << 10));
  const auto count = read_(base::MutableBytes(buffer_).subspan(before));
  buffer_.resize(before + count);
  return count > 0;
}

/// The view dies with the next call.
base::Bytes WireChannel::take(std::size_t size) {
  while (buffer_.size() - at_ < size)
    if (!fill()) throw Error(Category::corrupt, "cut off");
  at_ += size;
  return base::Bytes(buffer_).subspan(at_ - size, size);
}

}  // namespace vat::internal
