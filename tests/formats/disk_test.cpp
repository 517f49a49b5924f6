#include <catch2/catch.hpp>
#include <cstring>

#include <fcntl.h>

#include <algorithm>
#include <map>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/disk/qcow2.h"
#include "formats/disk/qcow2_writer.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

using base::Category;
using formats::Disk;
using formats::open_qcow2;

namespace {

constexpr std::uint64_t kCluster = 65536;

/// A disk of which some parts are kept, some changed from what lies below.
class MadeDisk final : public Disk {
 public:
  explicit MadeDisk(std::uint64_t size) : bytes(static_cast<std::size_t>(size)) {}
  [[nodiscard]] std::uint64_t size() const noexcept override { return bytes.size(); }
  [[nodiscard]] Extent find_extent(std::uint64_t at) override { return {at, size()}; }
  [[nodiscard]] Extent find_changed(std::uint64_t at) override {
    for (const auto& [begin, end] : changed)
      if (end > at) return {std::max(at, begin), end};
    return {size(), size()};
  }
  void read(std::uint64_t at, base::MutableBytes to) override {
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), to.size(), to.begin());
  }
  void fill(std::uint64_t at, std::size_t size, int value) {
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), size, static_cast<std::byte>(value));
  }
  base::Buffer bytes;
  std::map<std::uint64_t, std::uint64_t> changed;  ///< by begin: end
};

base::Buffer contents(Disk& disk) {
  base::Buffer all(static_cast<std::size_t>(disk.size()));
  // In odd pieces, by extents, as a reader of holes would.
  for (std::uint64_t at = 0; at < disk.size();) {
    const auto extent = disk.find_extent(at);
    for (at = extent.begin; at < extent.end;) {
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(extent.end - at, 30011));
      disk.read(at, std::span(all).subspan(static_cast<std::size_t>(at), count));
      at += count;
    }
  }
  return all;
}

base::Buffer written(Disk& disk, const std::optional<formats::Backing>& below = {}, bool compress = false) {
  const tests::TempDir dir;
  const auto file = base::open_at(AT_FDCWD, dir.path() + "/image", O_RDWR | O_CREAT);
  formats::write_qcow2(disk, file.get(), {below, compress});
  base::Buffer bytes(static_cast<std::size_t>(base::file_size(file.get())));
  REQUIRE(base::read_exact_at(file.get(), 0, bytes));
  return bytes;
}

base::ReadAt reader_of(const base::Buffer& bytes) {
  return [&bytes](std::uint64_t at, base::MutableBytes to) {
    if (at > bytes.size() || to.size() > bytes.size() - at) return false;
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), to.size(), to.begin());
    return true;
  };
}

void store_be(base::Buffer& bytes, std::size_t at, std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i)
    bytes[at + i] = static_cast<std::byte>(value >> (8 * (size - 1 - i)));
}

/// Why it is refused.
std::string refusal(const base::Buffer& bytes) {
  const auto error =
      tests::error_of([&] { (void)contents(*open_qcow2(reader_of(bytes), bytes.size(), nullptr)); });
  CHECK(error.category() == Category::refused);
  return error.what();
}

constexpr std::uint64_t kSize = 40 * kCluster + 1024;

void make(MadeDisk& disk) {
  disk.fill(0, 100, 1);
  disk.fill(5 * kCluster - 1, 2, 2);
  disk.fill(disk.size() - 1, 1, 3);
}

}  // namespace

TEST_CASE("what is written as qcow2 is read back, and only what is not zero takes room", "[disk]") {
  MadeDisk disk(kSize);
  make(disk);
  const auto bytes = written(disk);
  CHECK(bytes.size() < 12 * kCluster);
  const auto back = open_qcow2(reader_of(bytes), bytes.size(), nullptr);
  CHECK(back->size() == disk.size());
  CHECK(contents(*back) == disk.bytes);
  CHECK(back->find_extent(kCluster).begin == 4 * kCluster);
  CHECK(back->find_changed(0).begin == 0);
  const auto empty = formats::make_empty_disk(disk.size());
  const auto none = written(*empty);
  CHECK(contents(*open_qcow2(reader_of(none), none.size(), nullptr)) == base::Buffer(disk.bytes.size()));
}

TEST_CASE("compressed clusters lie one after the other, and those that do not get smaller as they are",
          "[disk]") {
  MadeDisk disk(600 * kCluster);
  make(disk);
  for (std::uint64_t i = 0; i < disk.bytes.size(); ++i)  // half of each cluster is noise, of some all
    if (i / kCluster % 7 == 0 || i % kCluster < kCluster / 2)
      disk.bytes[static_cast<std::size_t>(i)] = static_cast<std::byte>((i * 0x9e3779b97f4a7c15) >> 40);
  const auto bytes = written(disk, {}, true);
  CHECK(bytes.size() < 400 * kCluster);
  CHECK(contents(*open_qcow2(reader_of(bytes), bytes.size(), nullptr)) == disk.bytes);
}

TEST_CASE("an overlay holds what differs from the disk below", "[disk]") {
  auto below = std::make_unique<MadeDisk>(kSize);
  make(*below);
  MadeDisk above(kSize);
  make(above);
  above.fill(7 * kCluster + 5, 10, 9);
  above.fill(0, 100, 0);  // zeros where there were none
  above.changed = {{0, 100}, {7 * kCluster, 7 * kCluster + 4096}};
  const auto bytes = written(above, formats::Backing{"base.raw", "raw"});
  const auto named = formats::find_backing(reader_of(bytes), bytes.size());
  REQUIRE(named.has_value());
  CHECK(named->name == "base.raw");
  CHECK(named->format == "raw");
  const auto back = open_qcow2(reader_of(bytes), bytes.size(), std::move(below));
  CHECK(contents(*back) == above.bytes);
  CHECK(back->find_changed(0).end == kCluster);
  CHECK(back->find_changed(kCluster).begin == 7 * kCluster);
  CHECK(back->find_changed(8 * kCluster).begin == above.size());
}

TEST_CASE("a disk below that is shorter is followed by zeros", "[disk]") {
  const auto empty = formats::make_empty_disk(3 * kCluster);
  const auto bytes = written(*empty, formats::Backing{"b", "raw"});
  auto below = std::make_unique<MadeDisk>(kCluster + 10);
  below->fill(0, static_cast<std::size_t>(kCluster + 10), 5);
  const auto disk = open_qcow2(reader_of(bytes), bytes.size(), std::move(below));
  auto all = contents(*disk);
  base::Buffer want(3 * kCluster);
  std::fill_n(want.begin(), kCluster + 10, std::byte{5});
  CHECK(all == want);
  CHECK(disk->find_changed(0).begin == kCluster + 10);
}

TEST_CASE("a qcow2 header with a field out of range is refused", "[disk]") {
  MadeDisk disk(kSize);
  make(disk);
  const auto sound = written(disk);
  struct Field {
    std::size_t at, size;
    std::uint64_t value;
    const char* why;
  };
  constexpr auto far = std::uint64_t{1} << 50;
  const auto field = GENERATE_COPY(
      Field{0, 4, 0x514649fa, "not a qcow2 image"}, Field{4, 4, 1, "version 1"}, Field{4, 4, 4, "version 4"},
      Field{8, 8, 70000, "the name of the disk below lies outside the header"},
      Field{8, 8, 50, "the name of the disk below lies outside the header"},
      Field{8, 8, 200, "the name of the disk below lies outside the header"},
      Field{20, 4, 8, "clusters of 2^8 bytes"}, Field{20, 4, 22, "clusters of 2^22 bytes"},
      Field{20, 4, 0xffffffff, "clusters of 2^4294967295 bytes"},
      Field{24, 8, UINT64_MAX, "a disk of 18446744073709551615 bytes"},
      Field{24, 8, std::uint64_t{1} << 40, "a first-level table smaller than the disk"},
      Field{32, 4, 1, "it is encrypted"}, Field{32, 4, 2, "it is encrypted"},
      Field{36, 4, 0, "a first-level table smaller than the disk"},
      Field{36, 4, 0xffffffff, "a first-level table of 4294967295 entries"},
      Field{36, 4, 4 << 20, "the first-level table lies outside the file"},
      Field{40, 8, 65537, "the first-level table lies outside the file"},
      Field{40, 8, far, "the first-level table lies outside the file"},
      Field{48, 8, far, "the table of refcounts lies outside the file"},
      Field{48, 8, 1, "the table of refcounts lies outside the file"},
      Field{56, 4, 0xffffffff, "the table of refcounts lies outside the file"},
      Field{60, 4, 0xffffffff, "4294967295 snapshots"}, Field{60, 4, 65537, "65537 snapshots"},
      Field{60, 4, 65536, "the table of snapshots lies outside the file"},
      Field{72, 8, 2, "it is marked as damaged; qemu-img check -r mends what can be"},
      Field{72, 8, 4, "its data is in another file"}, Field{72, 8, 8, "compression 0"},
      Field{72, 8, 32, "it needs features that are not known here"}, Field{96, 4, 7, "refcounts of 2^7 bits"},
      Field{100, 4, 96, "a header of 96 bytes"}, Field{100, 4, 105, "a header of 105 bytes"},
      Field{100, 4, 1 << 30, "a header of 1073741824 bytes"});
  INFO(field.at << " " << field.value);
  auto bytes = sound;
  store_be(bytes, field.at, field.value, field.size);
  CHECK(refusal(bytes) == "qcow2: " + std::string(field.why));
}

TEST_CASE("a qcow2 header's extension ends where the header does", "[disk]") {
  MadeDisk disk(kSize);
  make(disk);
  auto bytes = written(disk);
  const auto at = base::load_be<std::uint32_t>(bytes.data() + 100);
  store_be(bytes, at, 0x11111111, 4);
  store_be(bytes, at + 4, kCluster - at - 7, 4);
  CHECK(refusal(bytes) == "qcow2: header extension beyond the first cluster");
}

TEST_CASE("a qcow2 image that ends while it is read is refused", "[disk]") {
  MadeDisk disk(kSize);
  make(disk);
  const auto bytes = written(disk);
  const std::vector<std::string> whys{"cut off in its header", "cut off in its header",
                                      "cut off in its first-level table", "cut off in a second-level table"};
  for (std::size_t reads = 0; reads < whys.size(); ++reads) {
    auto left = reads;
    const auto whole = reader_of(bytes);
    const auto read = [&](std::uint64_t at, base::MutableBytes to) { return left-- > 0 && whole(at, to); };
    CHECK(tests::message_of([&] { (void)open_qcow2(read, bytes.size(), nullptr); }) ==
          "qcow2: " + whys[reads]);
  }
}

TEST_CASE("no qcow2 image is made of parts of sectors, or of a disk too large", "[disk]") {
  const tests::TempDir dir;
  const auto file = base::open_at(AT_FDCWD, dir.path() + "/image", O_RDWR | O_CREAT);
  const auto write = [&](std::uint64_t size) {
    formats::write_qcow2(*formats::make_empty_disk(size), file.get());
  };
  for (const auto size : {std::uint64_t{1}, std::uint64_t{65535}, formats::kMaxDiskSize + 512})
    CHECK(tests::category_of([&] { write(size); }) == Category::refused);
  CHECK(base::file_size(file.get()) == 0);
  write(512);
  CHECK(open_qcow2(base::reader_of(file.get()), base::file_size(file.get()), nullptr)->size() == 512);
}

TEST_CASE("tables of a qcow2 image that name what they may not are refused", "[disk]") {
  MadeDisk disk(kSize);
  make(disk);
  const auto sound = written(disk);
  const auto l1 = kCluster;
  base::Buffer eight(8);
  std::uint64_t l2 = 0;
  for (std::size_t i = 0; i < 8; ++i) l2 = l2 << 8 | std::to_integer<std::uint64_t>(sound[l1 + i]);
  l2 &= 0x00fffffffffffe00;
  constexpr auto copied = std::uint64_t{1} << 63;
  struct Entry {
    std::uint64_t at, value;
    std::string why;
  };
  constexpr auto compressed = std::uint64_t{1} << 62;
  const std::vector<Entry> entries{
      {l1, l1 | copied, "cluster 1 is used twice"},
      {l1, std::uint64_t{1} << 40, "the second-level table 0 lies outside the file"},
      {l1, l2 + 512, "the second-level table 0 lies outside the file"},
      {l1, l2 | 1, "first-level entry 0 has unknown bits"},
      {l2, l2 | copied, "cluster " + std::to_string(l2 / kCluster) + " is used twice"},
      {l2, l1 | copied, "cluster 1 is used twice"},
      {l2, (4 * kCluster) | copied, "cluster 4 is used twice"},
      {l2, std::uint64_t{1} << 40, "cluster at 1099511627776 lies outside the file"},
      {l2, (2 * kCluster + 512) | copied, "cluster at 131584 lies outside the file"},
      {l2, (2 * kCluster) | (std::uint64_t{1} << 57), "a cluster's entry has unknown bits"},
      {l2, compressed | (std::uint64_t{1} << 40), "a compressed cluster lies outside the file"},
      {l2, compressed | copied | kCluster, "a compressed cluster lies outside the file"},
      {l2, compressed | 3 * kCluster, "compressed cluster at 196608: deflate: damaged"},
  };
  CHECK(contents(*open_qcow2(reader_of(sound), sound.size(), nullptr)) == disk.bytes);
  for (const auto& entry : entries) {
    auto bytes = sound;
    store_be(bytes, static_cast<std::size_t>(entry.at), entry.value, 8);
    CHECK(refusal(bytes) == "qcow2: " + entry.why);
  }
  const std::vector<std::pair<std::size_t, std::string>> cuts{
      {0, "cut off in its header"},
      {3, "cut off in its header"},
      {71, "cut off in its header"},
      {103, "a header of 0 bytes"},
      {65536, "the first-level table lies outside the file"},
      {65537, "the first-level table lies outside the file"},
      {131072, "the table of refcounts lies outside the file"}};
  for (const auto& [size, why] : cuts) {
    auto bytes = sound;
    bytes.resize(size);
    CHECK(refusal(bytes) == "qcow2: " + why);
  }
}

TEST_CASE("subclusters of a qcow2 image that contradict each other are refused", "[disk]") {
  // Written by hand: a header, a first-level table, a second-level table and one cluster of 16 KiB each.
  constexpr std::uint64_t kSmall = 16384, kSubclusters = 16, kL2 = 2 * kSmall;
  base::Buffer sound(5 * kSmall);
  std::memcpy(sound.data(), "QFI\xfb", 4);
  store_be(sound, 4, 3, 4);
  store_be(sound, 20, 14, 4);
  store_be(sound, 24, 2 * kSmall, 8);
  store_be(sound, 36, 1, 4);
  store_be(sound, 40, kSmall, 8);
  store_be(sound, 48, 4 * kSmall, 8);
  store_be(sound, 56, 1, 4);
  store_be(sound, 72, kSubclusters, 8);
  store_be(sound, 96, 4, 4);
  store_be(sound, 100, 104, 4);
  store_be(sound, kSmall, kL2, 8);
  store_be(sound, kL2, 3 * kSmall, 8);
  store_be(sound, kL2 + 8, 1, 8);
  std::fill_n(sound.begin() + 3 * kSmall, kSmall, std::byte{7});
  auto want = base::Buffer(2 * kSmall);
  std::fill_n(want.begin(), kSmall / 32, std::byte{7});
  CHECK(contents(*open_qcow2(reader_of(sound), sound.size(), nullptr)) == want);
  struct Entry {
    std::uint64_t entry, bitmap;
    const char* why;
  };
  for (const auto& wrong :
       {Entry{3 * kSmall, 1 | std::uint64_t{1} << 32, "a subcluster is zero and not"},
        Entry{0, 1, "a subcluster that lies nowhere"}, Entry{1, 0, "a cluster's entry has unknown bits"},
        Entry{std::uint64_t{1} << 62 | 3 * kSmall, 1, "a compressed cluster with subclusters"}}) {
    auto bytes = sound;
    store_be(bytes, kL2, wrong.entry, 8);
    store_be(bytes, kL2 + 8, wrong.bitmap, 8);
    CHECK(refusal(bytes) == "qcow2: " + std::string(wrong.why));
  }
  auto bytes = sound;
  store_be(bytes, 20, 13, 4);
  CHECK(refusal(bytes) == "qcow2: subclusters in clusters too small for them");
}
