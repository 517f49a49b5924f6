#include "formats/map/map.h"

#include <catch2/catch.hpp>

#include "formats/base/error.h"
#include "formats/base/hash.h"
#include "formats/compression/zstd.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

namespace {

using formats::MapRun;
using Section = formats::MapSection;

const auto kFormat = base::ObjectFormat::sha256;
const auto kRoot = base::hash_blob(kFormat, {});
const std::string kPackA(64, 'a'), kPackB(64, 'b');

std::vector<MapRun> read(base::Bytes file) {
  std::vector<MapRun> runs;
  (void)formats::read_map(file, kFormat, kRoot, [&](const MapRun& run) { runs.push_back(run); });
  return runs;
}

base::Buffer frame(const std::string& text) {
  base::Buffer file;
  (void)formats::ZstdCompressor().compress(base::as_bytes(text), file);
  return file;
}

base::Category failure(base::Bytes file) {
  try {
    (void)read(file);
  } catch (const base::Error& error) {
    return error.category();
  }
  return base::Category::internal;
}

}  // namespace

TEST_CASE("neighbouring places become one run, in the order of their section", "[map]") {
  formats::MapWriter writer(kFormat, kRoot, std::nullopt);
  writer.add(Section::data, kPackA, {0, 100}, 0);
  writer.add(Section::data, kPackA, {0, 100}, 1);
  writer.add(Section::manifest, kPackB, {500, 70}, 2);
  writer.add(Section::data, kPackA, {0, 100}, 1);
  writer.add_absent(Section::data);
  writer.add_absent(Section::data);
  writer.add(Section::data, kPackB, {500, 70}, 3);
  writer.add(Section::data, kPackA, {0, 100}, 2);
  const std::vector<MapRun> want = {
      {Section::manifest, kPackB, {500, 70}, 2, 1}, {Section::data, kPackA, {0, 100}, 0, 2},
      {Section::data, kPackA, {0, 100}, 1, 1},      {Section::data, {}, {0, 0}, 0, 2},
      {Section::data, kPackB, {500, 70}, 3, 1},     {Section::data, kPackA, {0, 100}, 2, 1}};
  CHECK(read(writer.finish()) == want);
}

TEST_CASE("a map of nothing is a map", "[map]") {
  const auto file = formats::MapWriter(kFormat, kRoot, kRoot).finish();
  CHECK(read(file).empty());
  CHECK(formats::read_map(file, kFormat, kRoot, [](const MapRun&) {}) == kRoot);
}

TEST_CASE("truncated and flipped maps are noticed", "[map]") {
  formats::MapWriter writer(kFormat, kRoot, std::nullopt);
  for (std::uint32_t i = 0; i < 50; ++i)
    writer.add(Section(i / 20), i % 2 == 0 ? kPackA : kPackB, {i * 1000, 900}, i);
  const auto file = writer.finish();
  for (std::size_t size = 0; size < file.size(); ++size) {
    const auto category = failure(base::Bytes(file).subspan(0, size));
    CHECK((category == base::Category::corrupt || category == base::Category::refused));
  }
  for (std::size_t i = 0; i < file.size(); ++i) {
    auto flipped = file;
    flipped[i] ^= std::byte{1};
    const auto category = failure(flipped);
    INFO("byte " << i);
    // A flip in what no decoder looks at (a reserved bit, say) may go unnoticed, but then the map reads the
    // same.
    CHECK((category == base::Category::corrupt || category == base::Category::refused ||
           (category == base::Category::internal && read(flipped) == read(file))));
  }
}

TEST_CASE("maps that break the format are refused", "[map]") {
  const std::string head = "map 2 sha256 " + kRoot.hex() + " -\n", pack = "pack " + kPackA + "\n",
                    data = head + pack + "data\n";
  CHECK(read(frame(data + "0 0 10 0 1\n- 3\n")).size() == 2);
  for (const auto& text : {std::string(),
                           "map 2 sha256 " + kRoot.hex() + "\n",
                           "map 2 sha256 " + kRoot.hex() + " 00\n",
                           head + "data\n0 0 10 0 1\n",
                           head + pack + "0 0 10 0 1\n",
                           data + "1 0 10 0 1\n",
                           data + "0 0 10 0 0\n",
                           data + "0 0 10 0\n",
                           data + "0 0 10 0 1 7\n",
                           data + "0 0 10 0 1",
                           data + "0 00 10 0 1\n",
                           data + "0 0 4294967296 0 1\n",
                           head + "pack " + std::string(64, 'G') + "\n",
                           data + "0 0 10 70000 1\n",
                           head + std::string(300, '1') + "\n",
                           data + "data\n",
                           data + "layout\n",
                           data + pack,
                           data + "- 0\n",
                           data + "- 1 1\n",
                           data + "-1\n",
                           data + "0 0 33554433 0 1\n",
                           data + "0 1099511627777 10 0 1\n",
                           "map 2 sha256 " + std::string(64, '0') + " -\n"}) {
    INFO(text);
    CHECK(failure(frame(text)) == base::Category::refused);
  }
}

TEST_CASE("a map's lines are told apart by what is wrong with them", "[map]") {
  const std::string head = "map 2 sha256 " + kRoot.hex() + " -\n", pack = "pack " + kPackA + "\n",
                    delta = "delta " + kRoot.hex();
  const auto message = [](const std::string& text) {
    return tests::message_of([&] { (void)read(frame(text)); });
  };
  CHECK(read(frame(head + delta + " 1 2\n" + pack)).empty());
  for (const auto& text :
       {head + delta + " 1\n", head + delta + "\n", head + delta + " x 2\n", head + "delta 00 1 2\n",
        head + pack + delta + " 1 2\n", head + "data\n" + delta + " 1 2\n"}) {
    INFO(text);
    CHECK(message(text) == "map: bad delta line");
  }
}

TEST_CASE("a map that is a bomb is put down before it fills the memory", "[map]") {
  std::string lines = "delta " + kRoot.hex() + " 11111111111111111 11111111111111111\n";
  while (lines.size() < std::size_t{32} << 20) lines += lines;
  auto bomb = frame("map 2 sha256 " + kRoot.hex() + " -\n");
  const auto part = frame(lines);
  for (std::size_t size = 0; size <= std::size_t{1} << 30; size += lines.size()) base::append(bomb, part);
  CHECK(bomb.size() < 1 << 20);
  CHECK(tests::message_of([&] { (void)read(bomb); }) == "map: larger than 1 GiB");
}

TEST_CASE("a map of another version is not for this program", "[map]") {
  CHECK(failure(frame("map 1 sha256 " + kRoot.hex() + " -\n")) == base::Category::no_store);
  CHECK(failure(frame("map 3 anything at all\n")) == base::Category::no_store);
}
