// Input: a tar. What is taken for one has members that lie in it, in order, and apart.
#include "formats/tar/tar_layout.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  const auto members = formats::find_tar_contents(fuzz::reader_of(input), input.size());
  if (!members) return 0;
  std::uint64_t at = 512;
  for (const auto& [begin, length] : *members) {
    fuzz::require(begin >= at && begin % 512 == 0 && length > 0, "members lie in order");
    fuzz::require(length <= input.size() - begin, "members lie in the file");
    at = begin + length;
  }
  return 0;
}
