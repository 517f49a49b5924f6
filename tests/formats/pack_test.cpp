#include "formats/pack/pack.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "formats/base/endian.h"
#include "formats/compression/decoder.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

using base::as_bytes;
using base::Category;
using base::ObjectFormat;
using formats::BlobKind;
using formats::GroupPlace;
using formats::PackedBlob;

namespace {

struct Blob {
  std::string content;
  BlobKind kind = BlobKind::data;
};
using Groups = std::vector<std::vector<Blob>>;

const Groups kGroups{
    {{"", BlobKind::data}, {"hello\n", BlobKind::data}, {std::string(300, 'x'), BlobKind::recipe}},
    {{"manifest", BlobKind::manifest},
     {"layout", BlobKind::layout},
     {"skeleton", BlobKind::skeleton},
     {"piece", BlobKind::piece}}};

formats::EncodedGroup encode(const std::vector<Blob>& blobs) {
  formats::ZstdCompressor compressor;
  std::vector<PackedBlob> table;
  std::string content;
  for (const auto& blob : blobs) {
    table.push_back({base::hash_blob(ObjectFormat::sha256, as_bytes(blob.content)),
                     static_cast<std::uint32_t>(blob.content.size()), blob.kind});
    content += blob.content;
  }
  return formats::encode_group(std::move(table), as_bytes(content), compressor);
}

base::Buffer pack_of(const Groups& groups) {
  base::Buffer bytes;
  formats::PackWriter writer(ObjectFormat::sha256, [&](base::Bytes piece) { base::append(bytes, piece); });
  for (const auto& group : groups) (void)writer.append(encode(group));
  const auto digest = writer.finish();
  base::Sha256 sha256;
  sha256.update(bytes);
  CHECK(digest == sha256.finish());
  CHECK(writer.size() == bytes.size());
  return bytes;
}

/// Reads from `bytes`; refuses to be asked for more memory than any honest pack needs.
formats::ReadAt reader_of(const base::Buffer& bytes) {
  return [&bytes](std::uint64_t offset, base::MutableBytes to) {
    REQUIRE(to.size() <= std::size_t{8} << 20);
    if (offset > bytes.size() || to.size() > bytes.size() - offset) return false;
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
    return true;
  };
}

struct Listed {
  std::vector<GroupPlace> places;
  std::vector<std::vector<PackedBlob>> blobs;
  formats::GroupVisitor visitor() {
    return [this](const GroupPlace& place, const std::vector<PackedBlob>& rows) {
      places.push_back(place);
      blobs.push_back(rows);
    };
  }
};

Listed trailer_of(const base::Buffer& bytes) {
  Listed listed;
  formats::read_trailer(ObjectFormat::sha256, reader_of(bytes), bytes.size(), listed.visitor());
  return listed;
}

/// Whether `listed` is what `groups` were packed as; walked packs do not know ids.
void check_lists(const Listed& listed, const base::Buffer& bytes, const Groups& groups, bool ids) {
  REQUIRE(listed.blobs.size() == groups.size());
  formats::ZstdDecompressor decompressor;
  std::uint64_t end = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto& place = listed.places[g];
    CHECK(place.offset == end);
    end = place.offset + place.size;
    REQUIRE(end <= bytes.size());
    const auto decoded = formats::decode_group(
        base::Bytes(bytes).subspan(static_cast<std::size_t>(place.offset), place.size), decompressor);
    REQUIRE(listed.blobs[g].size() == groups[g].size());
    REQUIRE(decoded.blobs.size() == groups[g].size());
    for (std::size_t i = 0; i < groups[g].size(); ++i) {
      const auto& row = listed.blobs[g][i];
      CHECK(base::as_chars(decoded.blob(i)) == groups[g][i].content);
      CHECK(decoded.blobs[i].kind == groups[g][i].kind);
      CHECK(row.size == groups[g][i].content.size());
      CHECK(row.kind == groups[g][i].kind);
      CHECK(row.id ==
            (ids ? base::hash_blob(ObjectFormat::sha256, as_bytes(groups[g][i].content)) : base::ObjectId()));
    }
  }
}

std::string zstd_dc(const base::Buffer& bytes) {
  const auto decoder =
      formats::make_decoder(formats::Codec::zstd, [&, at = std::size_t{0}](base::MutableBytes to) mutable {
        const std::size_t count = std::min(to.size(), bytes.size() - at);
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), count, to.begin());
        at += count;
        return count;
      });
  std::string content(1 << 20, '\0');
  content.resize(decoder->read({reinterpret_cast<std::byte*>(content.data()), content.size()}));
  return content;
}

std::string content_of(const Groups& groups) {
  std::string content;
  for (const auto& group : groups)
    for (const auto& blob : group) content += blob.content;
  return content;
}

void put_le32(base::Buffer& bytes, std::size_t at, std::uint32_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// A pack of `groups` whose trailer says `text` (and is of `text_size`).
base::Buffer with_trailer(base::Bytes groups, std::string_view text, std::size_t text_size) {
  base::Buffer frame, bytes(groups.begin(), groups.end());
  (void)formats::ZstdCompressor().compress(as_bytes(text), frame);
  base::append_le<std::uint32_t>(bytes, 0x184D2A5E);
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(frame.size() + 16));
  base::append(bytes, frame);
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(text_size));
  base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(frame.size()));
  base::append(bytes, as_bytes("VATPACK1"));
  return bytes;
}

std::size_t groups_size(const Groups& groups) {
  std::size_t size = 0;
  for (const auto& group : groups) size += encode(group).bytes.size();
  return size;
}

}  // namespace

TEST_CASE("a pack made by zstd and a script is read", "[pack]") {
  // Frames by `zstd --check -3 -c FILE`, put together in Python after docs/formats/pack.md.
  const auto bytes = tests::to_buffer(tests::read_file(tests::golden("two-groups.pack.zst")));
  check_lists(trailer_of(bytes), bytes, kGroups, true);
  Listed walked;
  (void)formats::walk_pack(reader_of(bytes), bytes.size(), walked.visitor());
  check_lists(walked, bytes, kGroups, false);
}

TEST_CASE("a pack lists what it holds and gives it back", "[pack]") {
  Groups many;
  for (std::size_t g = 0; g < 50; ++g) {
    many.emplace_back();
    for (std::size_t i = 0; i <= g * 7; ++i)
      many.back().push_back(
          {std::string(i, static_cast<char>('a' + g % 26)), static_cast<BlobKind>(i % formats::kBlobKinds)});
  }
  for (const auto& groups : {Groups{}, Groups{{{"", BlobKind::data}}}, kGroups, many}) {
    const auto bytes = pack_of(groups);
    check_lists(trailer_of(bytes), bytes, groups, true);
  }
}

TEST_CASE("zstd -dc of a pack is its blobs back to back", "[pack]") {
  CHECK(zstd_dc(pack_of(kGroups)) == content_of(kGroups));
  CHECK(zstd_dc(pack_of({})).empty());
}

TEST_CASE("the same groups make the same pack", "[pack]") {
  CHECK(pack_of(kGroups) == pack_of(kGroups));
}

TEST_CASE("a pack that lost its trailer tells its groups when walked", "[pack]") {
  const auto whole = pack_of(kGroups);
  const std::size_t end = groups_size(kGroups);
  for (std::size_t size = end; size < whole.size(); ++size) {
    const base::Buffer bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(tests::category_of([&] { (void)trailer_of(bytes); }) == Category::corrupt);
    Listed walked;
    CHECK(formats::walk_pack(reader_of(bytes), bytes.size(), walked.visitor()) == end);
    check_lists(walked, bytes, kGroups, false);
  }
}

TEST_CASE("a pack cut off within its groups is walked as far as it goes", "[pack]") {
  const auto whole = pack_of(kGroups);
  const std::size_t first = encode(kGroups[0]).bytes.size();
  tests::for_each_truncation(
      base::Bytes(whole).subspan(0, groups_size(kGroups)), [&](const base::Buffer& bytes) {
        CHECK(tests::category_of([&] { (void)trailer_of(bytes); }) == Category::corrupt);
        Listed walked;
        CHECK(formats::walk_pack(reader_of(bytes), bytes.size(), walked.visitor()) ==
              (bytes.size() < first ? 0 : first));
        CHECK(walked.places.size() == (bytes.size() < first ? 0 : 1));
      });
}

TEST_CASE("a flipped bit of a pack yields no other bytes in its groups", "[pack]") {
  const auto whole = pack_of(kGroups);
  formats::ZstdDecompressor decompressor;
  tests::for_each_flip(whole, [&](const base::Buffer& bytes) {
    Listed listed, walked;
    (void)tests::accepts([&] { listed = trailer_of(bytes); });
    for (const auto& place : listed.places) {
      REQUIRE(place.offset <= bytes.size());
      REQUIRE(place.size <= bytes.size() - place.offset);
    }
    const auto end = formats::walk_pack(reader_of(bytes), bytes.size(), walked.visitor());
    CHECK(end <= bytes.size());
    std::string content;
    for (const auto& place : walked.places) {
      REQUIRE(place.offset + place.size <= end);
      (void)tests::accepts([&] {
        content += base::as_chars(
            formats::decode_group(
                base::Bytes(bytes).subspan(static_cast<std::size_t>(place.offset), place.size), decompressor)
                .content);
      });
    }
    CHECK(content_of(kGroups).find(content) != std::string::npos);
  });
}

TEST_CASE("a group that lacks bytes asks for more and a whole one does not", "[pack]") {
  const auto group = encode(kGroups[0]);
  const auto header = formats::find_group_header(group.bytes);
  REQUIRE(header);
  CHECK(header->header_size + header->frame_size == group.bytes.size());
  CHECK(header->content_size == 306);
  formats::ZstdDecompressor decompressor;
  tests::for_each_truncation(group.bytes, [&](const base::Buffer& bytes) {
    CHECK(formats::find_group_header(bytes).has_value() == (bytes.size() >= header->header_size));
    CHECK(tests::category_of([&] { (void)formats::decode_group(bytes, decompressor); }) == Category::corrupt);
  });
  auto longer = group.bytes;
  longer.push_back(std::byte{0});
  CHECK(tests::category_of([&] { (void)formats::decode_group(longer, decompressor); }) == Category::corrupt);
}

TEST_CASE("group headers that lie are corrupt and cost no memory", "[pack]") {
  const auto good = encode(kGroups[0]).bytes;
  formats::ZstdDecompressor decompressor;
  const auto corrupt = [&](const base::Buffer& bytes) {
    return tests::category_of([&] { (void)formats::decode_group(bytes, decompressor); }) == Category::corrupt;
  };
  // Offsets: 0 magic, 4 payload size, 8 version and reserved, 12 frame size, 16 blob count, 20 table.
  struct Lie {
    std::size_t at;
    std::uint32_t value;
  };
  for (const auto [at, value] : std::initializer_list<Lie>{
           {0, 0x184D2A5E}, {0, 0xFD2FB528}, {4, 0},           {4, 11},         {4, 12}, {4, 15},
           {4, 17},         {4, 655372},     {4, 655373},      {4, 0xFFFFFFFF}, {8, 0},  {8, 2},
           {8, 0x101},      {8, 0x1000001},  {12, 0xFFFFFFFF}, {16, 0},         {16, 2}, {16, 4},
           {16, 65536},     {16, 65537},     {16, 0xFFFFFFFF}}) {
    INFO("offset " << at << " value " << value);
    auto bytes = good;
    put_le32(bytes, at, value);
    CHECK(corrupt(bytes));
    Listed walked;
    CHECK(formats::walk_pack(reader_of(bytes), bytes.size(), walked.visitor()) == 0);
    CHECK(walked.places.empty());
  }
  for (const std::uint32_t size : {0U, 11U, 655373U, 0xFFFFFFFFU}) {
    auto bytes = good;
    put_le32(bytes, 4, size);
    CHECK(tests::message_of([&] { (void)formats::find_group_header(bytes); }) == "group: bad header size");
  }
}

TEST_CASE("blob tables that lie are corrupt", "[pack]") {
  const auto group = [](std::string_view table, std::uint32_t count) {
    base::Buffer bytes;
    base::append_le<std::uint32_t>(bytes, 0x184D2A5A);
    base::append_le<std::uint32_t>(bytes, static_cast<std::uint32_t>(12 + table.size()));
    base::append_le<std::uint32_t>(bytes, 1);
    base::append_le<std::uint32_t>(bytes, 0);
    base::append_le<std::uint32_t>(bytes, count);
    base::append(bytes, as_bytes(table));
    return bytes;
  };
  const auto header = formats::find_group_header(group("\x28\x2d", 2));  // data of 5 bytes, piece of 5
  REQUIRE(header);
  CHECK(header->content_size == 10);
  CHECK(header->blobs[1].kind == BlobKind::piece);
  using namespace std::string_view_literals;
  std::string big, many;
  for (int i = 0; i < 3; ++i) big += "\x80\x80\x80\x20"sv;       // three blobs of 8 MiB: 24 MiB of content
  for (int i = 0; i < 65536; ++i) many += "\x80\x80\x80\x20"sv;  // half a terabyte
  for (const auto& [table, count] : std::initializer_list<std::pair<std::string, std::uint32_t>>{
           {"\x2e", 1},
           {"\x2f", 1},                      // kinds 6 and 7
           {std::string("\xa8\x00", 2), 1},  // a varint not in its shortest form
           {"\xa8", 1},                      // cut off
           {"\x88\x80\x80\x20", 1},          // a blob of 8 MiB and a byte
           {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1},
           {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 1},
           {"\x28\x28", 1},
           {"\x28", 2},
           {big, 3},
           {many, 65536}}) {
    const auto bytes = group(table, count);
    CHECK(tests::category_of([&] { (void)formats::find_group_header(bytes); }) == Category::corrupt);
  }
}

TEST_CASE("a frame of another size than its blobs is corrupt", "[pack]") {
  formats::ZstdCompressor compressor;
  formats::ZstdDecompressor decompressor;
  for (const std::uint32_t size : {0U, 4U, 6U, 1U << 23}) {
    const auto group = formats::encode_group({{{}, size, BlobKind::data}}, as_bytes("hello"), compressor);
    CHECK(tests::category_of([&] { (void)formats::decode_group(group.bytes, decompressor); }) ==
          Category::corrupt);
  }
}

TEST_CASE("trailers that lie are corrupt", "[pack]") {
  const auto group = encode({{"hello", BlobKind::data}}).bytes;
  const auto id = base::hash_blob(ObjectFormat::sha256, as_bytes("hello")).hex();
  const auto size = std::to_string(group.size());
  const std::string good = "pack 1 sha256\ngroup 0 " + size + "\nd 5 " + id + "\n";
  const auto corrupt = [&](const std::string& text, std::size_t text_size) {
    return tests::category_of([&] { (void)trailer_of(with_trailer(group, text, text_size)); }) ==
           Category::corrupt;
  };
  CHECK(trailer_of(with_trailer(group, good, good.size())).places.size() == 1);
  CHECK(corrupt(good, good.size() - 1));
  CHECK(corrupt(good, good.size() + 1));
  CHECK(corrupt(good, 0));
  CHECK(corrupt(good, 0xFFFFFFFF));
  const std::string head = "pack 1 sha256\n", place = "group 0 " + size + "\n", row = "d 5 " + id + "\n";
  for (const auto& text :
       std::vector<std::string>{"",
                                "\n",
                                head,
                                "pack 1 sha1\n" + place + row,
                                "pack 2 sha256\n" + place + row,
                                "pack 1 sha256 \n" + place + row,
                                place + row,
                                head + row,
                                head + row + place,
                                head + place + row + "x",
                                head + place + row + "\n",
                                head + place + place + row,
                                head + "group 1 " + size + "\n" + row,
                                head + "group 0 0" + size + "\n" + row,
                                head + "group 0 " + std::to_string(group.size() - 1) + "\n" + row,
                                head + "group 0 " + std::to_string(group.size() + 1) + "\n" + row,
                                head + "group 0 4294967296\n" + row,
                                head + "group 0 18446744073709551615\n" + row,
                                head + "group 0\n" + row,
                                head + "group 0 " + size + " \n" + row,
                                head + place + "d 05 " + id + "\n",
                                head + place + "d 5  " + id + "\n",
                                head + place + "d 5 " + id + " \n",
                                head + place + "x 5 " + id + "\n",
                                head + place + "d5 " + id + "\n",
                                head + place + "d 8388609 " + id + "\n",
                                head + place + "d 5 " + id.substr(1) + "\n",
                                head + place + "d 5 A" + id.substr(1) + "\n",
                                head + place + "d\n",
                                head + place + "d 5\n",
                                head + place + std::string(300, 'd') + "\n",
                                head + std::string(100000, 'x')}) {
    INFO(text.substr(0, 300));
    CHECK(corrupt(text, text.size()));
  }
}

TEST_CASE("the fixed end of a trailer is checked before it is believed", "[pack]") {
  const auto good = pack_of(kGroups);
  const std::size_t end = good.size() - 16;
  for (const std::uint32_t value :
       {0U, 1U, 0x7FFFFFFFU, 0xFFFFFFFFU, 0xFFFFFFF0U, static_cast<std::uint32_t>(good.size())})
    for (const std::size_t field : {end, end + 4}) {
      auto bytes = good;
      put_le32(bytes, field, value);
      CHECK(tests::category_of([&] { (void)trailer_of(bytes); }) == Category::corrupt);
    }
  Listed listed;  // a file whose size is not what its directory said
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{23}, std::uint64_t{good.size() + 1}, UINT64_MAX})
    CHECK(tests::category_of([&] {
            formats::read_trailer(ObjectFormat::sha256, reader_of(good), size, listed.visitor());
          }) == Category::corrupt);
}

TEST_CASE("each field of a trailer's end is looked at", "[pack]") {
  const auto good = pack_of(kGroups);
  const auto frame_size = base::load_le<std::uint32_t>(good.data() + good.size() - 12);
  const auto head = good.size() - 16 - frame_size - 8;
  const auto message = [&](std::size_t at, std::uint32_t value) {
    auto bytes = good;
    put_le32(bytes, at, value);
    return tests::message_of([&] { (void)trailer_of(bytes); });
  };
  CHECK(tests::message_of([] { (void)trailer_of(base::Buffer(23)); }) == "trailer: file too short");
  CHECK(message(good.size() - 8, 0) == "trailer: missing");
  CHECK(message(good.size() - 16, (std::uint32_t{256} << 20) + 1) == "trailer: impossible size");
  CHECK(message(good.size() - 12, static_cast<std::uint32_t>(good.size())) == "trailer: impossible size");
  CHECK(message(good.size() - 12, frame_size - 1) == "trailer: bad frame");
  CHECK(message(head, 0) == "trailer: bad frame");
  CHECK(message(head + 4, frame_size) == "trailer: bad frame");

  auto left = 2;  // reads that succeed: the file is cut off after them
  const auto whole = reader_of(good);
  Listed listed;
  CHECK(tests::message_of([&] {
          formats::read_trailer(
              ObjectFormat::sha256,
              [&](std::uint64_t offset, base::MutableBytes to) { return left-- > 0 && whole(offset, to); },
              good.size(), listed.visitor());
        }) == "trailer: file too short");
}

TEST_CASE("a trailer that is a bomb is put down before it fills the memory", "[pack]") {
  const auto group = encode({{"hello", BlobKind::data}}).bytes;
  const auto message = [&](const std::string& text, std::size_t text_size) {
    return tests::message_of([&] { (void)trailer_of(with_trailer(group, text, text_size)); });
  };
  const std::string head = "pack 1 sha256\n", long_line(std::size_t{1} << 20, 'x');
  CHECK(message(head + long_line, head.size() + long_line.size()) == "trailer: line too long");
  CHECK(message(head + long_line, 100) == "trailer: longer than declared");
}

TEST_CASE("a trailer is told from damage by its frame", "[pack]") {
  const auto bytes = pack_of(kGroups);
  const auto read = reader_of(bytes);
  const std::size_t end = groups_size(kGroups);
  CHECK(formats::is_trailer_at(read, end, bytes.size()));
  for (const std::size_t offset : {std::size_t{0}, end - 1, end + 1, bytes.size() - 8, bytes.size()})
    CHECK_FALSE(formats::is_trailer_at(read, offset, bytes.size()));
  CHECK_FALSE(formats::is_trailer_at(read, end, bytes.size() - 1));
}
