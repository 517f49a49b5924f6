#include "formats/delta/delta.h"

#include <catch2/catch.hpp>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/hash.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

namespace {

const auto kFormat = base::ObjectFormat::sha256;
const auto kFrom = base::hash_blob(kFormat, base::as_bytes("from")),
           kTo = base::hash_blob(kFormat, base::as_bytes("to"));

struct Sample {
  base::Buffer before = tests::random_bytes(300000, 1);
  base::Buffer after;
  base::Buffer file;
  Sample() {
    after = before;
    after.insert(after.begin() + 1000, 50, std::byte{7});
    formats::DeltaWriter writer(kFormat, {kFrom, kTo, 12345}, 9,
                                [&](base::Bytes bytes) { base::append(file, bytes); });
    writer.add({base::hash_blob(kFormat, before)}, before,
               {{base::hash_blob(kFormat, after), static_cast<std::uint32_t>(after.size()),
                 formats::BlobKind::data}},
               after);
    const auto text = base::as_bytes("nothing like it");
    writer.add({}, {}, {{base::hash_blob(kFormat, text), 15, formats::BlobKind::recipe}}, text);
    CHECK(writer.size() == file.size());
    const auto head = formats::find_delta_head(kFormat, file);
    REQUIRE(head);
    CHECK(head->from == kFrom);
    CHECK(head->to == kTo);
    CHECK(head->missing == 12345);
    CHECK_FALSE(formats::find_delta_head(base::ObjectFormat::sha1, file));
  }
};

/// Hands out a file some bytes at a time.
formats::DeltaReader::ReadMore pieces_of(const base::Buffer& file, std::size_t size) {
  return [&file, size, at = std::size_t{0}](base::Buffer& to) mutable {
    const auto count = std::min(size, file.size() - at);
    base::append(to, base::Bytes(file).subspan(at, count));
    at += count;
    return count > 0;
  };
}

std::vector<base::Buffer> read(const base::Buffer& file, const base::Buffer& before,
                               std::size_t step = 1000) {
  formats::DeltaReader reader(kFormat, kFrom, kTo, pieces_of(file, step));
  std::vector<base::Buffer> contents;
  formats::DeltaGroup group;
  formats::ZstdDecompressor decompressor;
  while (reader.next(group))
    contents.push_back(formats::decode_delta_group(
                           group, group.prefix.empty() ? base::Bytes() : base::Bytes(before), decompressor)
                           .content);
  return contents;
}

}  // namespace

TEST_CASE("a delta gives what was put in, and is small where the prefix is alike", "[delta]") {
  const Sample sample;
  CHECK(sample.file.size() < 2000);
  for (const std::size_t step : {std::size_t{1}, std::size_t{7}, std::size_t{100000}}) {
    const auto contents = read(sample.file, sample.before, step);
    REQUIRE(contents.size() == 2);
    CHECK(contents[0] == sample.after);
    CHECK(base::as_chars(contents[1]) == "nothing like it");
  }
}

TEST_CASE("a delta between other roots, or of another version, is refused", "[delta]") {
  const Sample sample;
  CHECK(tests::category_of([&] { formats::DeltaReader(kFormat, kTo, kFrom, pieces_of(sample.file, 100)); }) ==
        base::Category::refused);
  auto other = sample.file;
  other[14] = std::byte{'2'};
  CHECK(tests::category_of([&] { (void)read(other, sample.before); }) == base::Category::refused);
}

TEST_CASE("deltas that break the format are refused", "[delta]") {
  const Sample sample;
  const auto message = [&](const base::Buffer& file) {
    return tests::message_of([&] { (void)read(file, sample.before); });
  };
  CHECK(message({}) == "delta: too short");
  auto bytes = sample.file;
  bytes[0] ^= std::byte{1};
  CHECK(message(bytes) == "delta: bad magic");
  const std::size_t head_size = 8 + base::load_le<std::uint32_t>(sample.file.data() + 4);
  bytes = sample.file;
  bytes[head_size] ^= std::byte{1};
  CHECK(message(bytes) == "delta: bad magic");
  bytes = sample.file;
  bytes.resize(head_size + 8);
  base::append(bytes, base::as_bytes("abc"));
  base::store_le(bytes.data() + head_size + 4, std::uint32_t{3});
  CHECK(message(bytes) == "delta: bad list of a prefix");
}

TEST_CASE("truncated and flipped deltas are noticed, or give other bytes for the ids to tell", "[delta]") {
  const Sample sample;
  const auto whole = read(sample.file, sample.before);
  for (std::size_t size = 0; size < sample.file.size(); ++size) {
    const base::Buffer cut(sample.file.begin(), sample.file.begin() + static_cast<std::ptrdiff_t>(size));
    std::size_t groups = 0;
    try {
      groups = read(cut, sample.before).size();  // a file may end after a group
    } catch (const base::Error& error) {
      CHECK((error.category() == base::Category::corrupt || error.category() == base::Category::refused));
    }
    CHECK(groups < 2);
  }
  for (std::size_t i = 0; i < sample.file.size(); ++i) {
    auto flipped = sample.file;
    flipped[i] ^= std::byte{1};
    INFO("byte " << i);
    try {
      (void)read(flipped, sample.before);
    } catch (const base::Error& error) {
      CHECK((error.category() == base::Category::corrupt || error.category() == base::Category::refused));
    }
  }
  // With another prefix than the one it was made with.
  auto other = sample.before;
  other[500] ^= std::byte{1};
  CHECK(tests::category_of([&] { (void)read(sample.file, other); }) == base::Category::corrupt);
}
