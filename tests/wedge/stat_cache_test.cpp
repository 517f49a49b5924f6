// What is known of files holds exactly as long as they do not change.
#include "wedge/stat_cache.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "formats/base/c_ptr.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "tests/support/temp_dir.h"

using base::ObjectFormat;
using wedge::FileState;
using wedge::KnownFile;
using wedge::SpotCheck;
using wedge::StatCache;

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

struct stat stat_of(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) info.st_size = -1;
  return info;
}

// Whatever file system the tests run on.
const std::vector<std::string> kTrusted{"/"};
const base::FileAt kHere{AT_FDCWD, "."};
FileState state(std::uint64_t inode, std::uint64_t size, std::int64_t mtime, std::int64_t ctime) {
  return {stat_of(".").st_dev, inode, size, mtime, ctime};
}
const FileState kState = state(1234567, 100, 5 * kSecond + 1, 6 * kSecond + 2);

base::ObjectId id_of(std::string_view text) {
  return base::hash_blob(ObjectFormat::sha256, base::as_bytes(text));
}

KnownFile some_file() {
  KnownFile known;
  known.blob = id_of("content");
  known.recipe = id_of("recipe");
  known.exponent = 16;
  known.sparse = true;
  known.xattrs = {{"user.a", std::string("\0x", 2)}, {"user.empty", ""}};
  return known;
}

bool same(const KnownFile& a, const KnownFile& b) {
  return a.blob == b.blob && a.recipe == b.recipe && a.exponent == b.exponent && a.sparse == b.sparse &&
         a.xattrs == b.xattrs;
}

std::string database(const tests::TempDir& dir) {
  return dir / "files-sha256.db";
}

}  // namespace

TEST_CASE("what was put is found, now and later, until the state differs", "[wedge][stat_cache]") {
  const tests::TempDir dir;
  const bool reopen = GENERATE(false, true);
  auto cache = std::make_unique<StatCache>(dir.path(), ObjectFormat::sha256, kTrusted);
  CHECK_FALSE(cache->find(kState, kHere));
  cache->put(kState, kHere, some_file(), StatCache::now());
  if (reopen) {
    cache.reset();
    cache = std::make_unique<StatCache>(dir.path(), ObjectFormat::sha256, kTrusted);
  }
  const auto found = cache->find(kState, kHere);
  REQUIRE(found);
  CHECK(same(*found, some_file()));
  CHECK(found->stored.empty());
  for (auto field : {&FileState::inode, &FileState::size}) {
    auto other = kState;
    ++(other.*field);
    CHECK_FALSE(cache->find(other, kHere));
  }
  for (auto field : {&FileState::mtime, &FileState::ctime}) {
    auto other = kState;
    ++(other.*field);
    CHECK_FALSE(cache->find(other, kHere));
    other.*field -= 2;  // set back
    CHECK_FALSE(cache->find(other, kHere));
  }
  auto other = kState;
  ++other.ctime;
  cache->put(other, kHere, {}, StatCache::now());  // the file changed
  CHECK_FALSE(cache->find(kState, kHere));
  CHECK(cache->find(other, kHere));
  CHECK_FALSE(StatCache(dir.path(), ObjectFormat::sha1).find(other, kHere));
}

TEST_CASE("a file that changed when it was read is not remembered", "[wedge][stat_cache]") {
  const tests::TempDir dir;
  StatCache cache(dir.path(), ObjectFormat::sha256, kTrusted);
  cache.put(kState, kHere, some_file(), kState.ctime);  // the same tick
  CHECK_FALSE(cache.find(kState, kHere));
  cache.put(kState, kHere, some_file(), kState.ctime + 1);
  CHECK(cache.find(kState, kHere));
  // Times in whole seconds, or two: the file system may know no finer ones.
  const auto coarse = state(8, 9, 100 * kSecond, 100 * kSecond);
  cache.put(coarse, kHere, some_file(), 102 * kSecond);
  CHECK_FALSE(cache.find(coarse, kHere));
  cache.put(coarse, kHere, some_file(), 102 * kSecond + 1);
  CHECK(cache.find(coarse, kHere));
}

TEST_CASE("rows that rotted and files that are no database are as if nothing was known",
          "[wedge][stat_cache]") {
  const tests::TempDir dir;
  { StatCache(dir.path(), ObjectFormat::sha256, kTrusted).put(kState, kHere, some_file(), StatCache::now()); }
  SECTION("attributes") {
    const auto* change = GENERATE("xattrs=x''", "xattrs=x'0100'", "ctime=5", "guard=0", "guard='x'");
    sqlite3* raw = nullptr;
    const int opened = sqlite3_open(database(dir).c_str(), &raw);
    const base::CPtr<sqlite3, sqlite3_close_v2> handle{raw};
    REQUIRE(opened == SQLITE_OK);
    REQUIRE(sqlite3_exec(raw, (std::string("UPDATE xattrs SET ") + change).c_str(), nullptr, nullptr,
                         nullptr) == SQLITE_OK);
  }
  SECTION("a row") {
    const auto tables = dir / "files-sha256";
    const auto table = tables + "/" + base::read_file(AT_FDCWD, tables + "/list", 1 << 20).substr(0, 64);
    auto bytes = base::read_file(AT_FDCWD, table, 1 << 20);
    const auto at = GENERATE(std::size_t{0}, 20, 60, 100, 4000, 4090);  // the end of the first block is empty
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    base::remove_tree(AT_FDCWD, table);
    tests::write_file(table, base::as_bytes(bytes));
  }
  SECTION("the file") {
    tests::write_file(database(dir), tests::random_bytes(20000, 1));
  }
  SECTION("gone") {
    REQUIRE(::unlink(database(dir).c_str()) == 0);
  }
  StatCache cache(dir.path(), ObjectFormat::sha256, kTrusted);
  CHECK_FALSE(cache.find(kState, kHere));
  cache.put(kState, kHere, some_file(), StatCache::now());
  CHECK(cache.find(kState, kHere));
}

TEST_CASE("a cache that cannot be kept knows nothing and fails nobody", "[wedge][stat_cache]") {
  const tests::TempDir dir;
  tests::write_file(dir / "file", {});
  for (const auto& place : {std::string(), dir / "file", dir / "file/below"}) {
    StatCache cache(place, ObjectFormat::sha256);
    cache.put(kState, kHere, some_file(), StatCache::now());
    cache.set_stored([] { return std::string("state"); });
    cache.flush();
    CHECK_FALSE(cache.find(kState, kHere));
    CHECK(cache.next_turn(kState) == 0);
  }
}

TEST_CASE("content is known to be stored only once that was said", "[wedge][stat_cache]") {
  const tests::TempDir dir;
  auto second = kState;
  ++second.inode;
  {
    StatCache cache(dir.path(), ObjectFormat::sha256, kTrusted);
    cache.put(kState, kHere, some_file(), StatCache::now());
    cache.set_stored([] { return std::string("vat A"); });
    cache.put(second, kHere, some_file(), StatCache::now());
  }
  StatCache cache(dir.path(), ObjectFormat::sha256, kTrusted);
  CHECK(cache.find(kState, kHere)->stored == "vat A");
  CHECK(cache.find(second, kHere)->stored.empty());
  cache.set_stored([] { return std::string("vat B"); });  // nothing was put since
  CHECK(cache.find(second, kHere)->stored.empty());
}

TEST_CASE("another link or one less is no change", "[wedge][stat_cache]") {
  const tests::TempDir dir;
  const auto file = dir / "f", link = dir / "g";
  tests::write_file(file, tests::random_bytes(10, 1));
  StatCache cache(dir / "cache", ObjectFormat::sha256);
  cache.put(wedge::state_of(stat_of(file)), kHere, some_file(), StatCache::kUnshared);
  const auto handle = base::open_at(AT_FDCWD, file, O_PATH);
  ::usleep(20000);
  cache.keep_across(handle.get(), [&] { REQUIRE(::link(file.c_str(), link.c_str()) == 0); });
  CHECK(same(cache.find(wedge::state_of(stat_of(file)), kHere).value(), some_file()));
  ::usleep(20000);
  cache.keep_across(handle.get(), [&] { REQUIRE(::unlink(link.c_str()) == 0); });
  CHECK(cache.find(wedge::state_of(stat_of(file)), kHere));
  ::usleep(20000);
  cache.keep_across(handle.get(), [&] { tests::write_file(file, tests::random_bytes(10, 2)); });
  CHECK_FALSE(cache.find(wedge::state_of(stat_of(file)), kHere));
}

TEST_CASE("spot checks come round to every file", "[wedge][stat_cache]") {
  const tests::TempDir dir;
  const unsigned percent = GENERATE(1U, 7U, 30U, 50U, 99U, 100U);
  StatCache cache(dir.path(), ObjectFormat::sha256, kTrusted);
  const auto turns = (100 + percent - 1) / percent;
  constexpr std::uint64_t kFiles = 2000;
  std::vector<unsigned> read(kFiles);
  for (unsigned turn = 0; turn < turns; ++turn) {
    const SpotCheck check(percent, cache.next_turn(kState));
    for (std::uint64_t i = 0; i < kFiles; ++i)
      if (check.is_due({7, i, 0, 0, 0})) ++read[i];
  }
  CHECK(std::all_of(read.begin(), read.end(), [](unsigned count) { return count == 1; }));
  CHECK_FALSE(SpotCheck().is_due(kState));
  auto other = kState;
  ++other.inode;
  CHECK(cache.next_turn(other) == 0);
}
