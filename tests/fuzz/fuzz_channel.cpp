// Input: a byte that says how the rest arrives and what is asked for, then lines and blocks as a far `vat
// serve` may send them.
#include <algorithm>

#include "tests/fuzz/target.h"
#include "vat/internal/channel.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  const auto choice = fuzz::take_choice(input);
  const std::size_t at_once = 1 + choice % 7 * 97;
  base::Buffer written;
  const auto read = [&](base::MutableBytes to) {
    const auto part = input.first(std::min({to.size(), input.size(), at_once}));
    std::copy(part.begin(), part.end(), to.begin());
    input = input.subspan(part.size());
    return part.size();
  };
  vat::internal::WireChannel channel(read, [&](base::Bytes bytes) { base::append(written, bytes); });
  fuzz::survives([&] {
    for (bool lines = choice & 128;; lines = !lines) {
      if (lines) {
        const auto line = channel.read_line();
        if (!line) return;
        fuzz::require(line->size() <= vat::internal::WireChannel::kMaxLine, "a line has a limit");
        fuzz::require(line->find('\n') == std::string::npos, "a line is one");
        continue;
      }
      base::Buffer block;
      while (channel.read_block(block)) fuzz::require(block.size() <= size, "a block is what was sent");
    }
  });
  return 0;
}
