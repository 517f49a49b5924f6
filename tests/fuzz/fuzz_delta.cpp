// Input: what follows the head of a delta; the head is put before it unless the first byte is 1.
#include "formats/base/hash.h"
#include "formats/delta/delta.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  const auto choice = fuzz::take_choice(input);
  const auto format = base::ObjectFormat::sha256;
  static const auto from = base::hash_blob(format, {});
  static const auto to = base::hash_blob(format, base::as_bytes("to"));
  base::Buffer file;
  if (choice != 1)
    formats::DeltaWriter(format, {from, to, 1}, 1, [&](base::Bytes bytes) { base::append(file, bytes); });
  base::append(file, input);
  (void)fuzz::survives([&] {
    std::size_t at = 0;
    formats::DeltaReader reader(format, from, to, [&](base::Buffer& more) {
      const auto part = base::Bytes(file).subspan(at, std::min<std::size_t>(file.size() - at, 100));
      base::append(more, part);
      at += part.size();
      return !part.empty();
    });
    formats::ZstdDecompressor decompressor;
    formats::DeltaGroup group;
    const base::Buffer prefix(1000, std::byte{'p'});
    while (reader.next(group)) {
      fuzz::require(group.prefix.size() <= formats::kMaxPrefixBlobs, "a prefix is of few blobs");
      const auto content = formats::decode_delta_group(group, prefix, decompressor);
      fuzz::require(content.content.size() <= formats::kMaxGroup, "a group is no larger than it may be");
    }
  });
  return 0;
}
