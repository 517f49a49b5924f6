// Input: the file of a map, or (first byte 0) its text, which is put into a frame first.
#include "formats/base/hash.h"
#include "formats/compression/zstd.h"
#include "formats/map/map.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  const auto format = base::ObjectFormat::sha256;
  static const auto root = base::hash_blob(format, {});
  base::Buffer frame;
  if (!input.empty() && input[0] == std::byte{0}) {
    (void)formats::ZstdCompressor(1).compress(input.subspan(1), frame);
    input = frame;
  }
  (void)fuzz::survives([&] {
    (void)formats::read_map(input, format, root, [](const formats::MapRun& run) {
      fuzz::require(run.count > 0 && (run.pack.empty() || run.pack.size() == 64), "a run says something");
    });
  });
  return 0;
}
