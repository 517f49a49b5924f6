#include "formats/delta/delta.h"

#include <string>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr std::uint32_t kPrefixMagic = 0x184D2A5B;  // zstd skippable frames
constexpr std::uint32_t kHeadMagic = 0x184D2A5C;
constexpr std::size_t kFrameHeaderSize = 8;  ///< magic and size

[[noreturn]] void corrupt(const std::string& what) {
  throw Error(Category::corrupt, "delta: " + what);
}

}  // namespace

std::optional<DeltaHead> find_delta_head(base::ObjectFormat format, base::Bytes bytes) {
  if (bytes.size() < kFrameHeaderSize || base::load_le<std::uint32_t>(bytes.data()) != kHeadMagic)
    return std::nullopt;
  const std::size_t size = base::load_le<std::uint32_t>(bytes.data() + 4);
  if (size > bytes.size() - kFrameHeaderSize) return std::nullopt;
  auto text = base::as_chars(bytes.subspan(kFrameHeaderSize, size));
  if (base::take_field(text, ' ') != "delta" || base::take_field(text, ' ') != "1" ||
      base::take_field(text, ' ') != base::to_string(format))
    return std::nullopt;
  const auto from = base::ObjectId::parse(format, base::take_field(text, ' '));
  const auto to = base::ObjectId::parse(format, base::take_field(text, ' '));
  const auto missing = base::parse_decimal(base::take_field(text, '\n'));
  if (!from || !to || !missing || !text.empty()) return std::nullopt;
  return DeltaHead{*from, *to, *missing};
}

DeltaWriter::DeltaWriter(base::ObjectFormat format, const DeltaHead& head, int level, base::ByteSink sink)
    : level_(level), sink_(std::move(sink)) {
  const auto text = "delta 1 " + std::string(base::to_string(format)) + " " + head.from.hex() + " " +
                    head.to.hex() + " " + std::to_string(head.missing) + "\n";
  base::Buffer frame;
  base::append_le(frame, kHeadMagic);
  base::append_le(frame, static_cast<std::uint32_t>(text.size()));
  base::append(frame, base::as_bytes(text));
  emit(frame);
}

void DeltaWriter::emit(base::Bytes bytes) {
  sink_(bytes);
  size_ += bytes.size();
}

void DeltaWriter::add(const std::vector<base::ObjectId>& prefix_ids, base::Bytes prefix,
                      std::vector<PackedBlob> blobs, base::Bytes content) {
  if (prefix.size() > kMaxDeltaPrefix || prefix_ids.size() > kMaxPrefixBlobs)
    throw Error(Category::internal, "delta: prefix too large");
  base::Buffer frame;
  base::append_le(frame, kPrefixMagic);
  const auto id_size = prefix_ids.empty() ? 0 : prefix_ids.front().raw().size();
  base::append_le(frame, static_cast<std::uint32_t>(4 + prefix_ids.size() * id_size));
  base::append_le(frame, static_cast<std::uint32_t>(prefix_ids.size()));
  for (const auto& id : prefix_ids) base::append(frame, id.raw());
  emit(frame);
  ZstdCompressor compressor(level_, prefix.size() + content.size());
  compressor.use_prefix(prefix);
  emit(encode_group(std::move(blobs), content, compressor).bytes);
}

DeltaReader::DeltaReader(base::ObjectFormat format, const base::ObjectId& from, const base::ObjectId& to,
                         ReadMore more)
    : format_(format), more_(std::move(more)) {
  if (!want(kFrameHeaderSize)) corrupt("too short");
  const auto size = frame(kHeadMagic, kMaxDeltaHead - kFrameHeaderSize).size() + kFrameHeaderSize;
  const auto head = find_delta_head(format, base::Bytes(buffer_).subspan(at_ - size, size));
  if (!head || head->from != from || head->to != to)
    throw Error(Category::refused, "delta: not the one between those roots");
}

/// Whether that many bytes are there, or can be had.
bool DeltaReader::want(std::size_t size) {
  if (at_ > buffer_.size() / 2) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(at_));
    at_ = 0;
  }
  while (buffer_.size() - at_ < size)
    if (!more_(buffer_)) return false;
  return true;
}

/// The payload of the skippable frame that begins here. The view dies with the next call.
base::Bytes DeltaReader::frame(std::uint32_t magic, std::size_t max_size) {
  if (!want(kFrameHeaderSize) || base::load_le<std::uint32_t>(rest().data()) != magic) corrupt("bad magic");
  const std::size_t size = base::load_le<std::uint32_t>(rest().data() + 4);
  if (size > max_size || !want(kFrameHeaderSize + size)) corrupt("cut off");
  at_ += kFrameHeaderSize + size;
  return base::Bytes(buffer_).subspan(at_ - size, size);
}

bool DeltaReader::next(DeltaGroup& group) {
  if (!want(1)) return false;
  group.prefix.clear();
  const auto id_size = base::id_size(format_);
  auto list = frame(kPrefixMagic, 4 + kMaxPrefixBlobs * id_size);
  if (list.size() < 4) corrupt("bad list of a prefix");
  const std::size_t count = base::load_le<std::uint32_t>(list.data());
  list = list.subspan(4);
  if (count > kMaxPrefixBlobs || list.size() != count * id_size) corrupt("bad list of a prefix");
  for (; !list.empty(); list = list.subspan(id_size))
    group.prefix.emplace_back(format_, list.subspan(0, id_size));
  std::optional<GroupHeader> header;
  for (std::size_t size = kFrameHeaderSize; !header; size = rest().size() + 1) {
    if (!want(size)) corrupt("cut off");
    header = find_group_header(rest());
  }
  const auto size = header->header_size + header->frame_size;
  if (size > kMaxStoredGroup || !want(size)) corrupt("cut off");
  const auto bytes = rest().subspan(0, size);
  group.bytes.assign(bytes.begin(), bytes.end());
  at_ += size;
  return true;
}

DecodedGroup decode_delta_group(const DeltaGroup& group, base::Bytes prefix, ZstdDecompressor& decompressor) {
  decompressor.use_prefix(prefix);
  return decode_group(group.bytes, decompressor);
}

}  // namespace formats
