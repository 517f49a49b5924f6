// Input: a qcow2 image. What is accepted is read from end to end, above a disk of zeros.
#include <algorithm>

#include "formats/disk/qcow2.h"
#include "formats/disk/qcow2_writer.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  (void)fuzz::survives([&] {
    const auto disk =
        formats::open_qcow2(fuzz::reader_of(input), input.size(), formats::make_empty_disk(1 << 20));
    base::Buffer part(4096);
    std::size_t steps = 0;
    for (std::uint64_t at = 0; at < disk->size() && steps < 500; ++steps) {
      const auto extent = disk->find_extent(at), changed = disk->find_changed(at);
      fuzz::require(extent.begin >= at && extent.begin <= extent.end && extent.end <= disk->size(),
                    "runs go on");
      fuzz::require(changed.begin >= at && changed.end <= disk->size(), "runs lie in the disk");
      for (at = extent.begin; at < extent.end && steps < 500; ++steps) {
        const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(extent.end - at, part.size()));
        disk->read(at, {part.data(), count});
        at += count;
      }
    }
  });
  return 0;
}
