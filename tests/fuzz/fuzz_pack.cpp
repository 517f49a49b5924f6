// Input: what it is (a group, a pack, the text of a trailer), then its bytes.
#include <algorithm>

#include "formats/base/endian.h"
#include "formats/pack/pack.h"
#include "tests/fuzz/target.h"

namespace {

constexpr auto kFormat = base::ObjectFormat::sha256;

void check_row(const formats::PackedBlob& row) {
  fuzz::require(
      row.size <= formats::kMaxPackedBlob && static_cast<std::size_t>(row.kind) < formats::kBlobKinds,
      "blobs are of sane size and kind");
}

void read_group(base::Bytes input) {
  fuzz::survives([&] {
    if (const auto header = formats::find_group_header(input)) {
      fuzz::require(header->content_size <= formats::kMaxGroup, "groups are of sane size");
      for (const auto& row : header->blobs) check_row(row);
    }
  });
  fuzz::survives([&] {
    formats::ZstdDecompressor decompressor;
    const auto group = formats::decode_group(input, decompressor);
    std::size_t end = 0;
    for (std::size_t i = 0; i < group.blobs.size(); ++i) end += group.blob(i).size();
    fuzz::require(end == group.content.size(), "blobs lie back to back");
  });
}

void read_pack(base::Bytes input) {
  const formats::ReadAt read = [&](std::uint64_t offset, base::MutableBytes to) {
    fuzz::require(to.size() <= std::size_t{8} << 20, "reads are of sane size");
    if (offset > input.size() || to.size() > input.size() - offset) return false;
    std::copy_n(input.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
    return true;
  };
  std::uint64_t next = 0;
  const formats::GroupVisitor visit = [&](const formats::GroupPlace& place,
                                          const std::vector<formats::PackedBlob>& rows) {
    fuzz::require(place.offset == next && place.size <= input.size() - place.offset,
                  "groups lie within the pack");
    next = place.offset + place.size;
    for (const auto& row : rows) check_row(row);
  };
  fuzz::survives([&] { formats::read_trailer(kFormat, read, input.size(), visit); });
  next = 0;
  fuzz::require(formats::walk_pack(read, input.size(), visit) == next,
                "a walk ends where its last group ends");
}

/// A pack of 1000 zero bytes for groups and a trailer of this text.
base::Buffer with_trailer(base::Bytes text) {
  base::Buffer frame, bytes(1000);
  (void)formats::ZstdCompressor(1).compress(text, frame);
  base::append_le<std::uint32_t>(bytes, 0x184D2A5E);
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(frame.size() + 16));
  base::append(bytes, frame);
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(text.size()));
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(frame.size()));
  base::append(bytes, base::as_bytes("VATPACK1"));
  return bytes;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  switch (fuzz::take_choice(input) % 3) {
    case 0:
      read_group(input);
      break;
    case 1:
      read_pack(input);
      break;
    default:
      read_pack(with_trailer(input));
      break;
  }
  return 0;
}
