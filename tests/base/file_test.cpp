#include "formats/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/scratch.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

using base::as_bytes;
using base::Category;
using tests::category_of;

TEST_CASE("open_beneath never leaves its directory", "[base]") {
  const tests::TempDir dir;
  base::make_directories(dir / "in/sub");
  tests::write_file(dir / "secret", as_bytes("secret"));
  tests::write_file(dir / "in/sub/file", as_bytes("open"));
  REQUIRE(::symlink("../secret", (dir / "in/link").c_str()) == 0);
  REQUIRE(::symlink("..", (dir / "in/up").c_str()) == 0);
  const auto in = base::open_directory(AT_FDCWD, dir / "in");
  CHECK(base::open_beneath(in.get(), "sub/file", O_RDONLY));
  for (const auto* bad : {"../secret", "link", "up/secret", "sub/../../secret", "/etc/passwd"}) {
    INFO(bad);
    CHECK_THROWS_AS(base::open_beneath(in.get(), bad, O_RDONLY), base::Error);
  }
}

TEST_CASE("open_beneath opens paths longer than the kernel takes", "[base]") {
  const tests::TempDir dir;
  auto at = base::open_directory(AT_FDCWD, dir.path());
  std::string path;
  for (int depth = 0; depth < 30; ++depth) {
    const std::string name(200, static_cast<char>('a' + depth % 26));
    REQUIRE(::mkdirat(at.get(), name.c_str(), 0777) == 0);
    at = base::open_directory(at.get(), name);
    path += name + "/";
  }
  path += "leaf";
  { const auto leaf = base::open_at(at.get(), "leaf", O_WRONLY | O_CREAT); }
  const auto top = base::open_directory(AT_FDCWD, dir.path());
  CHECK(base::open_beneath(top.get(), path, O_RDONLY));

  // Nor does it leave its directory then.
  const auto deep = path.substr(0, path.size() - 4);
  REQUIRE(::symlinkat("..", at.get(), "up") == 0);
  REQUIRE(::symlinkat("leaf", at.get(), "link") == 0);
  for (const auto* bad : {"../leaf", "up/leaf", "link", "leaf/x", "/leaf"}) {
    INFO(bad);
    CHECK(category_of([&] { (void)base::open_beneath(top.get(), deep + bad, O_RDONLY); }) ==
          Category::refused);
  }
}

TEST_CASE("what is no file is not read as one", "[base]") {
  const tests::TempDir dir;
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0666) == 0);
  REQUIRE(::mkdir((dir / "dir").c_str(), 0777) == 0);
  for (const auto* name : {"fifo", "dir"}) {
    INFO(name);
    CHECK(category_of([&] { (void)base::read_file(AT_FDCWD, dir / name, 100); }) == Category::refused);
  }
}

TEST_CASE("a published file is complete and its temporary is gone", "[base]") {
  const tests::TempDir dir;
  const auto at = base::open_directory(AT_FDCWD, dir.path());
  {
    base::AtomicFile file(at.get());
    file.write(as_bytes("one"));
    CHECK(file.publish(at.get(), "name", base::AtomicFile::Existing::keep));
  }
  {
    base::AtomicFile file(at.get());
    file.write(as_bytes("two"));
    CHECK_FALSE(file.publish(at.get(), "name", base::AtomicFile::Existing::keep));
  }
  CHECK(tests::read_file(dir / "name") == "one");
  base::write_file_atomically(at.get(), "name", as_bytes("three"));
  CHECK(tests::read_file(dir / "name") == "three");
  CHECK(base::list_directory(at.get()).size() == 1U);
}

TEST_CASE("a temporary that another machine took away is no missing content", "[base]") {
  const tests::TempDir dir;
  const auto at = base::open_directory(AT_FDCWD, dir.path());
  base::AtomicFile file(at.get());
  for (const auto& name : base::list_directory(at.get())) REQUIRE(::unlinkat(at.get(), name.c_str(), 0) == 0);
  try {
    (void)file.publish(at.get(), "name", base::AtomicFile::Existing::replace);
    FAIL("published what is not there");
  } catch (const base::Error& error) {
    CHECK(error.category() == base::Category::local);
    CHECK(std::string(error.what()).starts_with(dir.path() + "/name: "));
  }
}

TEST_CASE("what a shared directory holds is shared, whatever the umask", "[base]") {
  const tests::TempDir dir;
  const auto at = base::open_directory(AT_FDCWD, dir.path());
  CHECK_FALSE(base::is_shared(at.get()));
  const auto before = ::umask(077);
  const auto mode_of = [&](const char* name) { return base::find_stat(at.get(), name)->st_mode & 07777; };
  (void)base::ensure_directory_as_parent(at.get(), "own", 0700);
  base::write_file_atomically(at.get(), "own file", {});
  CHECK(mode_of("own") == 0700);
  CHECK(mode_of("own file") == 0600);
  base::share(at.get());
  REQUIRE(base::is_shared(at.get()));
  (void)base::ensure_directory_as_parent(at.get(), "ours", 0700);
  (void)base::open_as_parent(at.get(), "lock");
  base::write_file_atomically(at.get(), "file", {});
  base::write_file_atomically(at.get(), "secret", {}, 0600);
  ::umask(before);
  CHECK(mode_of("ours") == 02770);
  CHECK(mode_of("lock") == 0660);
  CHECK(mode_of("file") == 0660);
  CHECK(mode_of("secret") == 0600);
  CHECK(mode_of("own") == 0700);
}

TEST_CASE("scratch goes to the next place only where there is no room", "[base]") {
  const tests::TempDir dir;
  const std::vector<base::ScratchPlace> places{
      {dir / "away", "A"}, {"/proc", "B"}, {dir.path(), "C"}, {dir / "never", "D"}};
  const auto fd =
      base::use_scratch(places, [](const auto& place) { return base::open_nameless(place.path); });
  CHECK(base::list_directory(base::open_directory(AT_FDCWD, dir.path()).get()).empty());
  CHECK(fd.get() >= 0);
  try {
    (void)base::use_scratch({places[0], places[1]},
                            [](const auto& place) { return base::make_scratch_directory(place.path); });
    FAIL("made what cannot be");
  } catch (const base::Error& error) {
    for (const auto* text : {"away (A): ", "/proc (B): "})
      CHECK(std::string(error.what()).find(text) != std::string::npos);
    CHECK(error.category() == base::Category::local);
  }
  unsigned tried = 0;
  CHECK_THROWS_AS(base::use_scratch(places,
                                    [&](const auto&) -> int {
                                      ++tried;
                                      throw base::Error(base::Category::wrong_bytes, "x");
                                    }),
                  base::Error);
  CHECK(tried == 1);
}

TEST_CASE("leftovers of dead writers are removed and files at work are not", "[base]") {
  const tests::TempDir dir;
  const auto at = base::open_directory(AT_FDCWD, dir.path());
  const std::string dead = ".vat-tmp-" + base::random_name();
  tests::write_file(dir / dead, as_bytes("x"));
  tests::write_file(dir / ".vat-tmp-notes", as_bytes("of a user"));
  tests::write_file(dir / "other", as_bytes("x"));
  base::AtomicFile alive(at.get());
  base::remove_leftovers(at.get());
  const auto names = base::list_directory(at.get());
  CHECK(names.size() == 3);
  CHECK(std::find(names.begin(), names.end(), dead) == names.end());
  CHECK(alive.publish(at.get(), "alive", base::AtomicFile::Existing::keep));
}

TEST_CASE("remove_tree follows no symlink and opens closed directories", "[base]") {
  const tests::TempDir dir;
  base::make_directories(dir / "keep");
  tests::write_file(dir / "keep/file", as_bytes("x"));
  base::make_directories(dir / "gone/deep/er");
  REQUIRE(::symlink("../keep", (dir / "gone/link").c_str()) == 0);
  REQUIRE(::chmod((dir / "gone/deep").c_str(), 0) == 0);
  const auto at = base::open_directory(AT_FDCWD, dir.path());
  base::remove_tree(at.get(), "gone");
  base::remove_tree(at.get(), "never was");
  CHECK(base::list_directory(at.get()) == std::vector<std::string>{"keep"});
  CHECK(tests::read_file(dir / "keep/file") == "x");
}

TEST_CASE("what is not there and what cannot be looked at are told apart", "[base]") {
  const tests::TempDir dir;
  const auto top = base::open_directory(AT_FDCWD, dir.path());
  tests::write_file(dir / "file", as_bytes("text"));
  REQUIRE(::symlink("file", (dir / "link").c_str()) == 0);
  REQUIRE(::symlink("nowhere", (dir / "dangling").c_str()) == 0);
  REQUIRE(::symlink("loop", (dir / "loop").c_str()) == 0);
  CHECK(S_ISREG(base::find_stat(top.get(), "file").value().st_mode));
  CHECK(S_ISLNK(base::find_stat(top.get(), "link").value().st_mode));
  CHECK(base::find_stat(top.get(), "link", true).value().st_size == 4);
  CHECK_FALSE(base::find_stat(top.get(), "absent"));
  CHECK_FALSE(base::find_stat(top.get(), "file/below"));
  CHECK_FALSE(base::find_stat(top.get(), "dangling", true));
  CHECK_FALSE(base::find_stat(top.get(), "loop", true));
  CHECK_THROWS_AS(base::find_stat(top.get(), std::string(5000, 'x')), base::Error);
}
