// Archives made by stock tools become the rows and the tree that the tools would make of them.
#include "wedge/unpack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/tar/pax_filter.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"
#include "tests/wedge/test_store.h"

using base::Category;
using base::ObjectFormat;
using formats::Row;
using tests::rows_of;

namespace {

bool run(const std::string& command) {
  return std::system(("( " + command + " ) > /dev/null 2>&1").c_str()) == 0;
}

formats::ByteSource source_of(const base::UniqueFd& fd) {
  return [&fd](base::MutableBytes buffer) { return base::read_some(fd.get(), buffer); };
}

std::vector<Row> list(const std::string& path, const std::string& kind) {
  const auto fd = base::open_at(AT_FDCWD, path, O_RDONLY);
  std::vector<Row> rows;
  (void)wedge::list_archive(source_of(fd), kind, ObjectFormat::sha256, std::uint64_t{1} << 30,
                            [&](const Row& row) { rows.push_back(row); });
  return rows;
}

wedge::WriteSummary unpack(const std::string& path, const std::string& kind, const std::string& parent,
                           const std::string& name, const wedge::WriteOptions& options = {}) {
  const auto fd = base::open_at(AT_FDCWD, path, O_RDONLY);
  return wedge::unpack_archive(source_of(fd), kind, ObjectFormat::sha256, std::uint64_t{1} << 30,
                               base::open_directory(AT_FDCWD, parent).get(), name, options);
}

/// A tree whose times are whole seconds, as plain tar keeps them.
bool make_tree(const tests::TempDir& dir) {
  return run("cd " + dir.path() + " && mkdir -p t/a/b t/a.d t/empty && printf 'hello\\n' > t/a/b/f && " +
             "printf x > t/a.d/x && : > t/a-b && chmod 755 t/a-b && ln -s ../nowhere t/a/l && " +
             "ln t/a/b/f t/z && find t -exec touch -h -d @1000000000 {} +");
}

void check_is_refused(const tests::TempDir& dir) {
  CHECK(tests::category_of([&] { (void)list(dir / "x.tar", "tar"); }) == Category::refused);
  CHECK(tests::category_of([&] { (void)unpack(dir / "x.tar", "tar", dir.path(), "out"); }) ==
        Category::refused);
}

}  // namespace

TEST_CASE("an archive lists and unpacks as the tree it was made of", "[wedge][unpack]") {
  const auto kind = GENERATE(as<std::string>(), "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst");
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  if (!run("cd " + dir.path() + " && tar -C t --sort=name -caf x." + kind + " .")) {
    WARN("SKIPPED: no tar, or it cannot make " << kind);
    return;
  }
  const auto wanted = rows_of(dir / "t");
  const auto listed = list(dir / ("x." + kind), kind);
  CHECK(listed == wanted);
  const auto summary = unpack(dir / ("x." + kind), kind, dir.path(), "out");
  CHECK(summary.files == 3);
  CHECK(summary.fetched_size == 7);
  const auto written = rows_of(dir / "out");
  REQUIRE(written.size() == wanted.size());
  for (std::size_t i = 1; i < wanted.size(); ++i)
    CHECK(formats::to_line(written[i]) == formats::to_line(wanted[i]));
  struct stat info;
  REQUIRE(::stat((dir / "out").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0700);
}

TEST_CASE("special members are told of only when they are made", "[wedge][unpack]") {
  const tests::TempDir dir;
  if (!run("cd " + dir.path() + " && mkdir t && mkfifo t/p t/q && : > t/r && tar -cf x.tar -C t .")) {
    WARN("SKIPPED: no tar");
    return;
  }
  const auto special = GENERATE(false, true);
  wedge::WriteOptions options;
  options.fidelity.fifos = special;
  std::vector<std::string> told;
  options.on_row = [&](const Row& row) { told.push_back(row.path); };
  const auto summary = unpack(dir / "x.tar", "tar", dir.path(), "out", options);
  CHECK(told ==
        (special ? std::vector<std::string>{".", "p", "q", "r"} : std::vector<std::string>{".", "r"}));
  CHECK(summary.skipped_special == (special ? 0U : 2U));
  CHECK(rows_of(dir / "out").size() == told.size());
  CHECK(list(dir / "x.tar", "tar").size() == 4);
}

TEST_CASE("members in any order and without their directories make a sorted tree", "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  if (!run("cd " + dir.path() +
           "/t && tar -cf ../x.tar z a.d/x ./a-b a/l && tar -rf ../x.tar a-b && printf new > a-b && tar -rf "
           "../x.tar a-b")) {
    WARN("SKIPPED: no tar");
    return;
  }
  const auto rows = list(dir / "x.tar", "tar");
  std::vector<std::string> paths;
  for (const auto& row : rows) paths.push_back(row.path);
  CHECK(paths == std::vector<std::string>{".", "a", "a/l", "a-b", "a.d", "a.d/x", "z"});
  CHECK(rows[1].mode == 0755);
  CHECK(rows[1].mtime == formats::Timestamp{});
  CHECK(rows[3].size == 3);  // the last of one name wins
  (void)unpack(dir / "x.tar", "tar", dir.path(), "out");
  CHECK(tests::read_file(dir / "out/a-b") == "new");
}

TEST_CASE("an absolute name is one below the tree", "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  REQUIRE(run("cd " + dir.path() + " && tar -cPf x.tar --transform='s,^t/z$,//escaped,' t/z"));
  (void)unpack(dir / "x.tar", "tar", dir.path(), "out");
  struct stat info;
  CHECK(::lstat((dir / "out/escaped").c_str(), &info) == 0);
  CHECK(::lstat("/escaped", &info) != 0);
}

TEST_CASE("archives that reach out of their tree are refused", "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  const auto* make = GENERATE(
      "tar -cPf x.tar --transform='s,^t/z$,../escaped,' t/z",
      // a symlink, then a member through it
      "ln -s .. t/up && tar -cf x.tar -C t up && tar -rf x.tar --transform='s,^z$,up/escaped,' -C t z",
      // a hard link to nothing in the archive
      "tar -cf x.tar t/a/b/f t/z && tar --delete -f x.tar t/a/b/f");
  if (!run("cd " + dir.path() + " && " + make)) {
    WARN("SKIPPED: tar cannot make this: " << make);
    return;
  }
  INFO(make);
  check_is_refused(dir);
  struct stat info;
  CHECK(::lstat((dir / "escaped").c_str(), &info) != 0);
  CHECK(::lstat("/escaped", &info) != 0);
}

TEST_CASE("a directory does not take the place of a file, nor does a symlink lead nowhere",
          "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  const auto* make =
      GENERATE("tar -cf x.tar -C t z && tar -rf x.tar --transform='s,^empty$,z,' -C t empty",
               "python3 -c \"import tarfile; t=tarfile.open('x.tar','w'); l=tarfile.TarInfo('l'); "
               "l.type=tarfile.SYMTYPE; t.addfile(l); t.close()\"");
  if (!run("cd " + dir.path() + " && " + make)) {
    WARN("SKIPPED: tar cannot make this: " << make);
    return;
  }
  INFO(make);
  check_is_refused(dir);
}

TEST_CASE("a member of an archive has a name of its tree", "[wedge][unpack]") {
  const tests::TempDir dir;
  const auto [name, why] =
      GENERATE(table<std::string, std::string>({{"", "a member without a name"},
                                                {"a/../../b", "may escape"},
                                                {".", "the tree itself is no directory"}}));
  if (!run("cd " + dir.path() +
           " && python3 -c \"import tarfile; t=tarfile.open('x.tar','w'); t.addfile(tarfile.TarInfo('" +
           name + "')); t.close()\"")) {
    WARN("SKIPPED: no Python");
    return;
  }
  INFO(name);
  check_is_refused(dir);
  CHECK_THAT(tests::message_of([&] { (void)list(dir / "x.tar", "tar"); }), Catch::Contains(why));
}

TEST_CASE("damaged archives and unknown kinds are not unpacked", "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  if (!run("cd " + dir.path() +
           " && tar -C t -czf x.tar.gz . && head -c 100 x.tar.gz > cut && gzip -dc x.tar.gz | head -c 1500 > "
           "cut.tar")) {
    WARN("SKIPPED: no tar");
    return;
  }
  CHECK(tests::category_of([&] { (void)list(dir / "cut", "tar.gz"); }) == Category::refused);
  CHECK_FALSE(tests::accepts([&] { (void)list(dir / "cut.tar", "tar"); }));
  CHECK_FALSE(tests::accepts([&] { (void)list(dir / "x.tar.gz", "tar"); }));
  for (const auto* kind : {"", "zip", "tgz", "tar.lz4", "tar.", "tar.gz.gz", "tarx"}) {
    INFO(kind);
    CHECK(tests::category_of([&] { (void)list(dir / "x.tar.gz", kind); }) == Category::refused);
  }
}

TEST_CASE("times within the second before 1970 keep their sign", "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  REQUIRE(run(
      "cd " + dir.path() + " && rm -rf t && mkdir t && touch -d '1969-12-31 23:59:59.5 UTC' t/before && " +
      "touch -d '1970-01-01 00:00:00.25 UTC' t/after && touch -d '1969-12-31 23:59:58.75 UTC' t/more && " +
      "touch -d @5 t && tar --format=pax --sort=name -cf x.tar -C t ."));
  CHECK(list(dir / "x.tar", "tar") == rows_of(dir / "t"));
  CHECK(list(dir / "x.tar", "tar")[2].mtime == formats::Timestamp{-1, 500'000'000});
}

TEST_CASE("global headers count for what follows, as GNU tar has it", "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  const auto make = [&](const std::string& python) {
    return run("cd " + dir.path() + " && python3 -c '" +
               "import tarfile, io\n"
               "def add(t, name, own={}, kind=tarfile.REGTYPE, data=b\"x\"):\n"
               "  m = tarfile.TarInfo(name); m.type = kind; m.mtime = 7; m.pax_headers = own\n"
               "  m.size = len(data); t.addfile(m, io.BytesIO(data))\n" +
               python + "'");
  };
  const auto open = [](const std::string& global) {
    return "t = tarfile.open(\"x.tar\", \"w\", format=tarfile.PAX_FORMAT, pax_headers=" + global + ")\n";
  };
  if (!make(
          open(R"({"mtime": "1000000000.25", "SCHILY.xattr.user.a": "b", "comment": "no"})") +
          R"(add(t, "a"); add(t, "b", {"mtime": "5.5"}); add(t, "c" * 150); add(t, "d", {"mtime": ""}); t.close())")) {
    WARN("SKIPPED: no python3");
    return;
  }
  auto rows = list(dir / "x.tar", "tar");
  REQUIRE(rows.size() == 5);
  CHECK(rows[1].mtime == formats::Timestamp{1'000'000'000, 250'000'000});
  CHECK(rows[1].xattrs.at("user.a") == "b");
  CHECK(rows[2].mtime == formats::Timestamp{5, 500'000'000});
  CHECK(rows[3].mtime == formats::Timestamp{1'000'000'000, 250'000'000});
  CHECK(rows[3].path == std::string(150, 'c'));
  CHECK(rows[4].mtime == formats::Timestamp{7, 0});  // what it takes back is what its own header says
  REQUIRE(run("cd " + dir.path() + " && mkdir o && { tar -xf x.tar -C o || true; }"));
  struct stat info;
  REQUIRE(::stat((dir / "o/a").c_str(), &info) == 0);
  CHECK(info.st_mtim.tv_nsec == 250'000'000);
  // A comment alone changes nothing; what would move the members does not count.
  REQUIRE(make(open(R"({"comment": "c"})") + R"(add(t, "a"); t.close())"));
  CHECK(list(dir / "x.tar", "tar")[1].mtime == formats::Timestamp{7, 0});
  REQUIRE(make(open(R"({"size": "0"})") + R"(add(t, "a"); t.close())"));
  check_is_refused(dir);
  REQUIRE(run("rm -rf " + (dir / "out")));
  REQUIRE(make(open(R"({"mtime": "1.5"})") + R"(add(t, "a"); add(t, "v", {}, b"V"); t.close())"));
  check_is_refused(dir);
}

TEST_CASE("what is no global header passes as it is, in whatever pieces it is asked for", "[wedge][unpack]") {
  const tests::TempDir dir;
  REQUIRE(make_tree(dir));
  const auto* format = GENERATE("pax", "gnu", "ustar", "v7", "gnu -S", "pax -S --sparse-version=1.0");
  REQUIRE(run("cd " + dir.path() + " && truncate -s 1M t/hole && echo x >>t/hole && mkdir -p t/" +
              std::string(80, 'l') + " && echo y >t/" + std::string(80, 'l') +
              "/f && tar -cf x.tar --format=" + format + " -C t ."));
  const auto whole = tests::read_file(dir / "x.tar");
  for (const std::size_t piece : {1U, 511U, 513U, 100000U}) {
    const auto fd = base::open_at(AT_FDCWD, dir / "x.tar", O_RDONLY);
    formats::PaxFilter filter(source_of(fd));
    std::string passed;
    base::Buffer buffer(piece);
    while (const auto count = filter(buffer)) passed += base::as_chars(base::Bytes(buffer).first(count));
    CHECK(passed == whole);
  }
}
