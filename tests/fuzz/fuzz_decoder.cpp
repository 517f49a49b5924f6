// Input: codec (0 to 4; 5 for a single frame of 64 KiB), step of the source, compressed bytes.
#include <algorithm>

#include "formats/compression/decoder.h"
#include "formats/compression/zstd.h"
#include "tests/fuzz/target.h"

namespace {

constexpr std::size_t kEnough = std::size_t{4} << 20;  ///< of content; a few bytes can stand for very much

void run_decoder(formats::Codec codec, std::size_t step, base::Bytes rest) {
  const auto decoder = formats::make_decoder(codec, [&](base::MutableBytes to) {
    const std::size_t count = std::min({step, to.size(), rest.size()});
    std::copy_n(rest.begin(), count, to.begin());
    rest = rest.subspan(count);
    return count;
  });
  base::Buffer buffer(std::size_t{64} << 10);
  for (std::size_t total = 0; total < kEnough;) {
    const std::size_t count = decoder->read(buffer);
    fuzz::require(count <= buffer.size(), "a decoder fills no more than its buffer");
    total += count;
    if (count == buffer.size()) continue;
    fuzz::require(rest.empty(), "a decoder reads all of its input");
    fuzz::require(decoder->read(buffer) == 0, "the end stays the end");
    return;
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  const unsigned codec = fuzz::take_choice(input) % 6;
  const std::size_t step = fuzz::take_choice(input) + 1;
  if (codec < 5) {
    fuzz::survives([&] { run_decoder(static_cast<formats::Codec>(codec), step, input); });
  } else {
    fuzz::survives([&] {
      const auto content = formats::ZstdDecompressor().decompress(input, step);
      fuzz::require(content.size() == step, "a frame is of the size declared");
    });
  }
  return 0;
}
