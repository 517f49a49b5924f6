// Input: a tar. What is accepted unpacks to rows in manifest order with safe names.
#include <algorithm>

#include "tests/fuzz/target.h"
#include "wedge/unpack.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  const formats::ByteSource source = [&](base::MutableBytes buffer) {
    const std::size_t count = std::min(buffer.size(), input.size());
    std::copy_n(input.begin(), count, buffer.begin());
    input = input.subspan(count);
    return count;
  };
  std::string last;
  (void)fuzz::survives([&] {
    (void)wedge::list_archive(
        source, "tar", base::ObjectFormat::sha256, std::uint64_t{1} << 20, [&](const formats::Row& row) {
          fuzz::require(formats::is_safe_path(row.path), "paths are safe");
          fuzz::require(last.empty() ? row.path == "." : formats::compare_paths(last, row.path) < 0,
                        "rows are in order");
          last = row.path;
        });
  });
  return 0;
}
