// Tables of mounts, and which file systems vouch for content. More in tests/e2e/same_times, with images and
// devices.
#include "formats/base/file_systems.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "formats/base/file.h"
#include "tests/support/temp_dir.h"

TEST_CASE("a line of the table of mounts is taken apart", "[base]") {
  const auto row = base::parse_mount_row(
      "36 35 98:12 /sub\\040dir /mnt/a\\134b rw,noatime master:1 propagate_from:2 - ext3 /dev/root "
      "ro,errors=continue");
  REQUIRE(row);
  CHECK(row->id == 36);
  CHECK(row->parent == 35);
  CHECK(row->root == "/sub dir");
  CHECK(row->point == "/mnt/a\\b");
  CHECK(row->type == "ext3");
  CHECK(row->source == "/dev/root");
  CHECK(row->super == std::vector<std::string>{"ro", "errors=continue"});
  const auto overlay =
      base::parse_mount_row("1 2 0:40 / /x rw - overlay none rw,lowerdir=/a\\054b:/c,upperdir=/d\\011e");
  REQUIRE(overlay);
  CHECK(overlay->super == std::vector<std::string>{"rw", "lowerdir=/a,b:/c", "upperdir=/d\te"});
  for (const auto* bad :
       {"", "36", "x 35 98:0 / / rw - ext3 x rw", "36 35 98 / / rw - ext3 x rw", "36 35 98:0 / / rw"})
    CHECK_FALSE(base::parse_mount_row(bad));
  CHECK(base::decode_mount_text("\\0\\04\\777\\\\040") == "\\0\\04\\777\\ ");
}

TEST_CASE("a file system is judged once, by what the kernel says of it", "[base]") {
  const tests::TempDir dir;
  const auto mounts = base::read_mounts();
  const auto fd = base::open_directory(AT_FDCWD, dir.path());
  const auto id = base::find_mount_id(fd.get());
  REQUIRE(id);
  CHECK(std::any_of(mounts.begin(), mounts.end(), [&](const auto& mount) { return mount.id == *id; }));
  struct stat info {
  }, proc{};
  REQUIRE(::fstat(fd.get(), &info) == 0);
  base::FileSystems systems;
  const auto& first = systems.look_at(info.st_dev, {fd.get()});
  CHECK(&systems.look_at(info.st_dev, {AT_FDCWD, "nowhere"}) == &first);
  CHECK((first.name != 0) == first.why.empty());
  CHECK(systems.look_at(info.st_dev + 1, {fd.get()}).name == 0);  // the file is not on that device
  REQUIRE(::stat("/proc", &proc) == 0);
  CHECK(systems.look_at(proc.st_dev, {AT_FDCWD, "/proc"}).name == 0);
  base::FileSystems trusting({"/proc"});
  CHECK(trusting.look_at(proc.st_dev, {AT_FDCWD, "/proc"}).name != 0);
  CHECK(trusting.look_at(proc.st_dev, {AT_FDCWD, "/proc"}).is_trusted);
}
