// Input: payloads of blocks, whose guards are made to fit, so that what lies in them is reached.
#include <xxhash.h>

#include <cstring>

#include "formats/base/endian.h"
#include "formats/table/table.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  constexpr std::size_t kPayload = formats::kTableBlock - 8;
  base::Buffer file;
  for (std::size_t at = 0; at < input.size(); at += kPayload) {
    base::append(file, input.subspan(at, std::min(kPayload, input.size() - at)));
    file.resize((at / kPayload + 1) * formats::kTableBlock - 8);
    base::append_le(file, static_cast<std::uint64_t>(XXH3_64bits_withSeed(
                              file.data() + file.size() - kPayload, kPayload, at / kPayload)));
  }
  (void)fuzz::survives([&] {
    formats::TableBlocks blocks;
    formats::Table table(
        {{'f', 'u', 'z', 'z', '0', '0', '0', '1'}, 8, 20},
        [&](std::uint64_t offset, base::MutableBytes buffer) {
          if (offset > file.size() || file.size() - offset < buffer.size()) return false;
          std::memcpy(buffer.data(), file.data() + offset, buffer.size());
          return true;
        },
        file.size(), blocks);
    for (std::uint64_t i = 0; i < table.count(); ++i) (void)table.record(i);
    for (std::uint64_t key = 0; key < 8; ++key) {
      base::Buffer bytes;
      base::append_le(bytes, key);
      table.find(bytes, [&](base::Bytes record) {
        fuzz::require(std::memcmp(record.data(), bytes.data(), 8) == 0, "a record found has the key");
      });
    }
  });
  return 0;
}
