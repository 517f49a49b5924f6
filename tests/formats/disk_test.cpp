#include <catch2/catch.hpp>

#include <fcntl.h>

#include <algorithm>
#include <map>

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

bool refused(const base::Buffer& bytes) {
  try {
    (void)contents(*open_qcow2(reader_of(bytes), bytes.size(), nullptr));
    return false;
  } catch (const base::Error& error) {
    CHECK(error.category() == Category::refused);
    return true;
  }
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
    const char* name;
    std::size_t at, size;
    std::uint64_t value;
  };
  const auto field = GENERATE(
      Field{"magic", 0, 4, 0x514649fa}, Field{"version", 4, 4, 1}, Field{"version", 4, 4, 4},
      Field{"backing name beyond the header", 8, 8, 70000}, Field{"backing name in the header", 8, 8, 50},
      Field{"backing name of no size", 8, 8, 200}, Field{"small clusters", 20, 4, 8},
      Field{"large clusters", 20, 4, 22}, Field{"huge clusters", 20, 4, 0xffffffff},
      Field{"huge disk", 24, 8, UINT64_MAX}, Field{"disk beyond its table", 24, 8, std::uint64_t{1} << 40},
      Field{"encryption", 32, 4, 1}, Field{"LUKS", 32, 4, 2}, Field{"empty table", 36, 4, 0},
      Field{"huge table", 36, 4, 0xffffffff}, Field{"table beyond the end", 36, 4, 4 << 20},
      Field{"table not aligned", 40, 8, 65537}, Field{"table outside", 40, 8, std::uint64_t{1} << 50},
      Field{"refcounts outside", 48, 8, std::uint64_t{1} << 50}, Field{"refcounts not aligned", 48, 8, 1},
      Field{"many refcounts", 56, 4, 0xffffffff}, Field{"many snapshots", 60, 4, 0xffffffff},
      Field{"marked damaged", 72, 8, 2}, Field{"data elsewhere", 72, 8, 4}, Field{"compression", 72, 8, 8},
      Field{"unknown feature", 72, 8, 32}, Field{"wide refcounts", 96, 4, 7},
      Field{"short header", 100, 4, 96}, Field{"odd header", 100, 4, 105},
      Field{"long header", 100, 4, 1 << 30});
  INFO(field.name);
  auto bytes = sound;
  store_be(bytes, field.at, field.value, field.size);
  CHECK(refused(bytes));
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
    const char* name;
    std::uint64_t at, value;
  };
  const std::vector<Entry> entries{
      {"first level to itself", l1, l1 | copied},
      {"first level outside", l1, std::uint64_t{1} << 40},
      {"first level not aligned", l1, l2 + 512},
      {"unknown bits", l1, l2 | 1},
      {"cluster is the table", l2, l2 | copied},
      {"cluster is the first-level table", l2, l1 | copied},
      {"cluster is used twice", l2, (4 * kCluster) | copied},
      {"cluster outside", l2, std::uint64_t{1} << 40},
      {"cluster not aligned", l2, (2 * kCluster + 512) | copied},
      {"unknown bits of a cluster", l2, (2 * kCluster) | (std::uint64_t{1} << 57)},
      {"compressed outside", l2, (std::uint64_t{1} << 62) | (std::uint64_t{1} << 40)},
      {"compressed and copied", l2, (std::uint64_t{3} << 62) | kCluster},
      {"compressed garbage", l2, (std::uint64_t{1} << 62) | 3 * kCluster},
  };
  CHECK_FALSE(refused(sound));
  for (const auto& entry : entries) {
    INFO(entry.name);
    auto bytes = sound;
    store_be(bytes, static_cast<std::size_t>(entry.at), entry.value, 8);
    CHECK(refused(bytes));
  }
  for (const std::size_t size : std::initializer_list<std::size_t>{0, 3, 71, 103, 65536, 65537, 131072}) {
    INFO("cut off at " << size);
    auto bytes = sound;
    bytes.resize(size);
    CHECK(refused(bytes));
  }
}
