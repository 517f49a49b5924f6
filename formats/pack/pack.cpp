#include "formats/pack/pack.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "formats/compression/decoder.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr std::uint32_t kGroupMagic = 0x184D2A5A;  // zstd skippable frames
constexpr std::uint32_t kTrailerMagic = 0x184D2A5E;
constexpr std::uint8_t kVersion = 1;
constexpr std::size_t kFrameHeaderSize = 8;  // magic and size of a skippable frame
constexpr std::size_t kGroupFixedSize = 12;  // version, flags, reserved, frame size, blob count
constexpr std::size_t kTrailerEndSize = 16;
constexpr std::string_view kTrailerEnd = "VATPACK1";
constexpr std::size_t kMaxTrailerText = std::size_t{256} << 20;
constexpr std::string_view kKindLetters = "drmlsp";

[[noreturn]] void corrupt(const std::string& what) {
  throw Error(Category::corrupt, what);
}

std::string trailer_header(base::ObjectFormat format) {
  return "pack 1 " + std::string(base::to_string(format));
}

/// Splits the trailer text into lines without holding all of it.
class TrailerParser {
 public:
  TrailerParser(base::ObjectFormat format, std::uint64_t end, const GroupVisitor& visit)
      : format_(format), end_(end), visit_(visit) {}

  void line(std::string_view text) {
    if (!seen_header_) {
      if (text != trailer_header(format_)) corrupt("trailer: unknown version or object format");
      seen_header_ = true;
    } else if (text.starts_with("group ")) {
      flush();
      text.remove_prefix(6);
      const auto offset = base::parse_decimal(base::take_field(text, ' '));
      const auto size = base::parse_decimal(text);
      if (!offset || !size || *offset != next_ || *size > kMaxStoredGroup || *size > end_ - next_)
        corrupt("trailer: bad group line");
      place_ = {*offset, static_cast<std::uint32_t>(*size)};
      next_ = *offset + *size;
      in_group_ = true;
    } else {
      const auto kind = kKindLetters.find(text.empty() ? '\0' : text[0]);
      if (!in_group_ || kind == std::string_view::npos || text.size() < 3 || text[1] != ' ')
        corrupt("trailer: bad line");
      text.remove_prefix(2);
      const auto size = base::parse_decimal(base::take_field(text, ' '));
      const auto id = base::ObjectId::parse(format_, text);
      if (!size || *size > kMaxPackedBlob || !id || blobs_.size() >= kMaxGroupBlobs)
        corrupt("trailer: bad blob line");
      blobs_.push_back({*id, static_cast<std::uint32_t>(*size), static_cast<BlobKind>(kind)});
    }
  }

  void finish() {
    flush();
    if (!seen_header_ || next_ != end_) corrupt("trailer: groups do not fill the pack");
  }

 private:
  void flush() {
    if (in_group_) visit_(place_, blobs_);
    blobs_.clear();
  }

  base::ObjectFormat format_;
  std::uint64_t end_;  ///< where the trailer starts
  const GroupVisitor& visit_;
  bool seen_header_ = false, in_group_ = false;
  std::uint64_t next_ = 0;
  GroupPlace place_{};
  std::vector<PackedBlob> blobs_;
};

}  // namespace

std::string_view to_string(BlobKind kind) noexcept {
  static constexpr std::array<std::string_view, kBlobKinds> kNames = {"data",   "recipe",   "manifest",
                                                                      "layout", "skeleton", "piece"};
  return kNames[static_cast<std::size_t>(kind)];
}

EncodedGroup encode_group(std::vector<PackedBlob> blobs, base::Bytes content, ZstdCompressor& compressor) {
  EncodedGroup group;
  base::Buffer table;
  for (const auto& blob : blobs)
    base::append_varint(table, std::uint64_t{blob.size} << 3 | static_cast<std::uint64_t>(blob.kind));
  base::append_le<std::uint32_t>(group.bytes, kGroupMagic);
  base::append_le<std::uint32_t>(group.bytes, static_cast<std::uint32_t>(kGroupFixedSize + table.size()));
  group.bytes.push_back(std::byte{kVersion});
  group.bytes.insert(group.bytes.end(), 3, std::byte{0});
  const std::size_t frame_size_at = group.bytes.size();
  base::append_le<std::uint32_t>(group.bytes, 0);
  base::append_le<std::uint32_t>(group.bytes, static_cast<std::uint32_t>(blobs.size()));
  base::append(group.bytes, table);
  const auto frame_size = static_cast<std::uint32_t>(compressor.compress(content, group.bytes));
  std::memcpy(group.bytes.data() + frame_size_at, &frame_size, sizeof frame_size);
  group.blobs = std::move(blobs);
  return group;
}

std::optional<GroupHeader> find_group_header(base::Bytes bytes) {
  if (bytes.size() < kFrameHeaderSize + kGroupFixedSize) return std::nullopt;
  if (base::load_le<std::uint32_t>(bytes.data()) != kGroupMagic) corrupt("group: bad magic");
  const std::size_t payload = base::load_le<std::uint32_t>(bytes.data() + 4);
  if (payload < kGroupFixedSize || payload > kGroupFixedSize + 10 * kMaxGroupBlobs)
    corrupt("group: bad header size");
  if (bytes[8] != std::byte{kVersion} || bytes[9] != std::byte{0} || bytes[10] != std::byte{0} ||
      bytes[11] != std::byte{0})
    corrupt("group: unknown version");
  GroupHeader header{{}, kFrameHeaderSize + payload, base::load_le<std::uint32_t>(bytes.data() + 12), 0};
  const std::size_t count = base::load_le<std::uint32_t>(bytes.data() + 16);
  if (count == 0 || count > kMaxGroupBlobs || count > payload) corrupt("group: bad blob count");
  if (bytes.size() < header.header_size) return std::nullopt;
  auto table = bytes.subspan(kFrameHeaderSize + kGroupFixedSize, payload - kGroupFixedSize);
  header.blobs.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto entry = base::take_varint(table);
    if (!entry || (*entry & 7) >= kBlobKinds || *entry >> 3 > kMaxPackedBlob)
      corrupt("group: bad blob entry");
    header.blobs.push_back({{}, static_cast<std::uint32_t>(*entry >> 3), static_cast<BlobKind>(*entry & 7)});
    header.content_size += static_cast<std::size_t>(*entry >> 3);
  }
  if (!table.empty()) corrupt("group: bytes after the blob table");
  if (header.content_size > kMaxGroup) corrupt("group: larger than 16 MiB");
  return header;
}

DecodedGroup decode_group(base::Bytes bytes, ZstdDecompressor& decompressor) {
  auto header = find_group_header(bytes);
  if (!header || header->header_size + header->frame_size != bytes.size())
    corrupt("group: not of the size expected");
  DecodedGroup group;
  group.content = decompressor.decompress(bytes.subspan(header->header_size), header->content_size);
  group.blobs = std::move(header->blobs);
  group.offsets.reserve(group.blobs.size());
  std::size_t offset = 0;
  for (const auto& blob : group.blobs) {
    group.offsets.push_back(offset);
    offset += blob.size;
  }
  return group;
}

void name_blobs(base::ObjectFormat format, DecodedGroup& group) {
  std::vector<base::Bytes> contents;
  contents.reserve(group.blobs.size());
  for (std::size_t i = 0; i < group.blobs.size(); ++i) contents.push_back(group.blob(i));
  std::vector<base::ObjectId> ids(contents.size());
  try {
    base::hash_blobs(format, contents, ids);
  } catch (const Error&) {  // one of them is refused; which, has to be seen
    base::ObjectHasher hasher(format);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      try {
        ids[i] = hasher.hash(contents[i]);
      } catch (const Error&) {
        ids[i] = {};
      }
    }
  }
  for (std::size_t i = 0; i < ids.size(); ++i) group.blobs[i].id = ids[i];
}

PackWriter::PackWriter(base::ObjectFormat format, base::ByteSink sink)
    : sink_(std::move(sink)), trailer_(trailer_header(format) + "\n") {}

void PackWriter::emit(base::Bytes bytes) {
  hash_.update(bytes);
  sink_(bytes);
  size_ += bytes.size();
}

GroupPlace PackWriter::append(const EncodedGroup& group) {
  const GroupPlace place{size_, static_cast<std::uint32_t>(group.bytes.size())};
  emit(group.bytes);
  trailer_ += "group " + std::to_string(place.offset) + " " + std::to_string(place.size) + "\n";
  for (const auto& blob : group.blobs) {
    trailer_ += kKindLetters[static_cast<std::size_t>(blob.kind)];
    trailer_ += ' ';
    trailer_ += std::to_string(blob.size);
    trailer_ += ' ';
    trailer_ += blob.id.hex();
    trailer_ += '\n';
  }
  blob_count_ += group.blobs.size();
  return place;
}

base::Sha256::Digest PackWriter::finish() {
  base::Buffer frame;
  const std::size_t frame_size =
      ZstdCompressor(1).compress(base::as_bytes(trailer_), frame);  // ids do not compress
  base::Buffer bytes;
  base::append_le<std::uint32_t>(bytes, kTrailerMagic);
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(frame_size + kTrailerEndSize));
  base::append(bytes, frame);
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(trailer_.size()));
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(frame_size));
  base::append(bytes, base::as_bytes(kTrailerEnd));
  emit(bytes);
  return hash_.finish();
}

void read_trailer(base::ObjectFormat format, const ReadAt& read, std::uint64_t size,
                  const GroupVisitor& visit) {
  std::array<std::byte, kTrailerEndSize> end;
  if (size < kFrameHeaderSize + kTrailerEndSize || !read(size - end.size(), end))
    corrupt("trailer: file too short");
  if (base::as_chars(end).substr(8) != kTrailerEnd) corrupt("trailer: missing");
  const std::size_t text_size = base::load_le<std::uint32_t>(end.data());
  const std::size_t frame_size = base::load_le<std::uint32_t>(end.data() + 4);
  if (text_size > kMaxTrailerText || frame_size > size - kFrameHeaderSize - kTrailerEndSize)
    corrupt("trailer: impossible size");
  const std::uint64_t start = size - kTrailerEndSize - frame_size - kFrameHeaderSize;
  std::array<std::byte, kFrameHeaderSize> head;
  if (!read(start, head) || base::load_le<std::uint32_t>(head.data()) != kTrailerMagic ||
      base::load_le<std::uint32_t>(head.data() + 4) != frame_size + kTrailerEndSize)
    corrupt("trailer: bad frame");

  std::uint64_t at = start + kFrameHeaderSize;
  const std::uint64_t frame_end = at + frame_size;
  const auto decoder = make_decoder(Codec::zstd, [&](base::MutableBytes buffer) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), frame_end - at));
    if (count > 0 && !read(at, buffer.subspan(0, count))) corrupt("trailer: file too short");
    at += count;
    return count;
  });
  TrailerParser parser(format, start, visit);
  std::string text(std::size_t{64} << 10, '\0');
  std::size_t kept = 0, total = 0;
  while (true) {
    const std::size_t count =
        decoder->read({reinterpret_cast<std::byte*>(text.data()) + kept, text.size() - kept});
    total += count;
    if (total > text_size) corrupt("trailer: longer than declared");
    std::string_view rest(text.data(), kept + count);
    for (std::size_t newline; (newline = rest.find('\n')) != std::string_view::npos;
         rest.remove_prefix(newline + 1))
      parser.line(rest.substr(0, newline));
    if (count == 0) {
      if (!rest.empty() || total != text_size) corrupt("trailer: cut off");
      break;
    }
    if (rest.size() > 200) corrupt("trailer: line too long");
    kept = rest.size();
    std::memmove(text.data(), rest.data(), kept);
  }
  parser.finish();
}

std::uint64_t walk_pack(const ReadAt& read, std::uint64_t size, const GroupVisitor& visit) {
  base::Buffer buffer;
  std::uint64_t at = 0;
  while (at < size) {
    std::optional<GroupHeader> header;
    try {
      for (std::uint64_t want = 4096; !header; want *= 4) {
        buffer.resize(static_cast<std::size_t>(std::min(want, size - at)));
        if (!read(at, buffer)) return at;
        header = find_group_header(buffer);
        if (!header && buffer.size() == size - at) return at;
      }
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;
      return at;
    }
    const std::uint64_t group_size = header->header_size + header->frame_size;
    if (group_size > size - at || group_size > UINT32_MAX) return at;
    visit({at, static_cast<std::uint32_t>(group_size)}, header->blobs);
    at += group_size;
  }
  return at;
}

bool is_trailer_at(const ReadAt& read, std::uint64_t offset, std::uint64_t size) {
  std::array<std::byte, kFrameHeaderSize> head;
  return offset + kFrameHeaderSize <= size && read(offset, head) &&
         base::load_le<std::uint32_t>(head.data()) == kTrailerMagic &&
         base::load_le<std::uint32_t>(head.data() + 4) == size - offset - kFrameHeaderSize;
}

}  // namespace formats
