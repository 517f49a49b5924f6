// Trees from disk to rows and back: order, git's names, round trips, comparison.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <map>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/layout.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"
#include "tests/wedge/test_store.h"
#include "vat/vat.h"
#include "wedge/comparison.h"
#include "wedge/git_tree.h"
#include "wedge/internal/place_file.h"
#include "wedge/internal/walk.h"
#include "wedge/scanner.h"
#include "wedge/tree_writer.h"

using base::as_bytes;
using base::Category;
using base::ObjectFormat;
using formats::Row;
using tests::make_tree;
using tests::open_dir;
using tests::put_file;
using tests::rows_of;
using tests::Store;

namespace {

/// Names that byte order and git's order (a directory sorts as if it ended in `/`) put differently.
const std::vector<std::string> kNames{"a-b", "a.b",   "a/b", "a/b.c",          "a/b-c/d", "a0", "aa",
                                      "b",   "b.d/x", "c d", "d\xc3\xa9/\xff", "z/y/x/w", "z.y"};

std::string output_of(const std::string& command) {
  FILE* const pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  for (int c; (c = std::fgetc(pipe)) != EOF;) text.push_back(static_cast<char>(c));
  REQUIRE(::pclose(pipe) == 0);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

std::vector<wedge::Difference> compare(const std::string& path, const std::vector<Row>& rows,
                                       wedge::CompareOptions options = {}) {
  std::vector<wedge::Difference> differences;
  auto next = rows.begin();
  const auto count = wedge::compare_tree(
      open_dir(path).get(), ObjectFormat::sha256,
      [&](Row& row) {
        if (next == rows.end()) return false;
        row = *next++;
        return true;
      },
      options, [&](const wedge::Difference& difference) { differences.push_back(difference); });
  CHECK(count == differences.size());
  return differences;
}

}  // namespace

TEST_CASE("git tree ids are those of git write-tree", "[wedge][git_tree]") {
  if (std::system("git --version > /dev/null 2>&1") != 0) {
    WARN("SKIPPED: no git");
    return;
  }
  const auto format = GENERATE(ObjectFormat::sha1, ObjectFormat::sha256);
  const tests::TempDir dir;
  const auto top = dir / "tree";
  for (const auto& name : kNames) put_file(top + "/" + name, "content of " + name);
  put_file(top + "/run", "#!/bin/sh\n");
  REQUIRE(::chmod((top + "/run").c_str(), 0744) == 0);
  put_file(top + "/group", "x");
  REQUIRE(::chmod((top + "/group").c_str(), 0654) == 0);  // not the owner's bit
  REQUIRE(::symlink("a/b", (top + "/a!").c_str()) == 0);
  REQUIRE(::symlink("a", (top + "/a/up").c_str()) == 0);
  REQUIRE(::link((top + "/run").c_str(), (top + "/a/run").c_str()) == 0);
  base::make_directories(top + "/nothing/in/here");
  const auto git = "GIT_CONFIG_NOSYSTEM=1 HOME='" + dir.path() + "' GIT_DIR='" + dir / "git" +
                   "' GIT_WORK_TREE='" + top + "' git ";
  REQUIRE(std::system((git + "init -q --object-format=" + std::string(base::to_string(format)) +
                       " > /dev/null 2>&1 && " + git + "config core.autocrlf false && cd '" + top + "' && " +
                       git + "add -A . > /dev/null 2>&1")
                          .c_str()) == 0);
  const auto wanted = output_of(git + "write-tree");
  wedge::GitTree tree(format);
  (void)wedge::scan_tree(open_dir(top).get(), format, nullptr, {}, [&](const wedge::ScannedRow& scanned) {
    if (scanned.row.type == Row::Type::file)
      tree.add_file(scanned.row.path, scanned.row.blob, scanned.executable);
    else if (scanned.row.type == Row::Type::symlink)
      tree.add_symlink(scanned.row.path, scanned.row.target);
    else if (scanned.linked_blob)
      tree.add_file(scanned.row.path, *scanned.linked_blob, scanned.executable);
  });
  CHECK(tree.finish().hex() == wanted);
}

TEST_CASE("a git tree of nothing is git's empty tree", "[wedge][git_tree]") {
  // Golden values: `git hash-object -t tree /dev/null`.
  CHECK(wedge::GitTree(ObjectFormat::sha1).finish().hex() == "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
  CHECK(wedge::GitTree(ObjectFormat::sha256).finish().hex() ==
        "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321");
}

TEST_CASE("the walk yields manifest order, each path once", "[wedge][walk]") {
  const tests::TempDir dir;
  const auto top = dir / "tree";
  for (const auto& name : kNames) put_file(top + "/" + name, "");
  base::make_directories(top + "/hollow");
  REQUIRE(::symlink(".", (top + "/loop").c_str()) == 0);
  const auto fd = open_dir(top);
  std::vector<std::string> paths, passed_over;
  using Take = wedge::internal::Walk::Take;
  wedge::internal::Walk walk(
      fd.get(),
      [&](const auto& entry) {
        if (entry.path != "z") return Take::all;
        passed_over.push_back(entry.path);
        return Take::nothing;
      },
      [](const auto&, const auto&) { FAIL("unreadable"); });
  while (const auto entry = walk.next()) paths.push_back(entry->path);
  CHECK(paths.front() == ".");
  for (std::size_t i = 1; i < paths.size(); ++i) {
    INFO(paths[i - 1] << " then " << paths[i]);
    CHECK(formats::compare_paths(paths[i - 1], paths[i]) < 0);
  }
  CHECK(passed_over.size() == 1);
  for (const auto& name : kNames)
    CHECK(std::count(paths.begin(), paths.end(), name) == (name.starts_with("z/") ? 0 : 1));
  CHECK(std::count(paths.begin(), paths.end(), "loop") == 1);
  CHECK_FALSE(walk.next());
}

TEST_CASE("patterns exclude what they say", "[wedge][scan]") {
  struct Case {
    const char* pattern;
    const char* path;
    bool directory;
    bool excluded;
  };
  for (const auto& test : std::vector<Case>{{"*.o", "a.o", false, true},
                                            {"*.o", "x/y/a.o", false, true},
                                            {"*.o", "a.o.c", false, false},
                                            {"a.o", "xa.o", false, false},
                                            {"build/", "build", true, true},
                                            {"build/", "x/build", true, true},
                                            {"build/", "build", false, false},
                                            {"x/*.o", "x/a.o", false, true},
                                            {"x/*.o", "x/y/a.o", false, false},
                                            {"x/*.o", "z/x/a.o", false, false},
                                            {"/a", "a", false, true},
                                            {"/a", "b/a", false, false},
                                            {"/a/", "a", true, true},
                                            {"/a/", "a", false, false},
                                            {"x/y/", "x/y", true, true},
                                            {"x/y/", "x/y", false, false},
                                            {"[ab]", "b", false, true},
                                            {"?", "ab", false, false},
                                            {"*", ".hidden", false, true},
                                            {"\\*", "*", false, true},
                                            {"\\*", "a", false, false},
                                            {"A", "a", false, false},
                                            {"", "a", false, false},
                                            {"/", "a", true, false}}) {
    INFO("'" << test.pattern << "' and " << test.path << (test.directory ? "/" : ""));
    CHECK(wedge::is_excluded({test.pattern}, test.path, test.directory) == test.excluded);
    CHECK(wedge::is_excluded({"nothing", test.pattern}, test.path, test.directory) == test.excluded);
  }
  CHECK_FALSE(wedge::is_excluded({}, "a", true));
}

TEST_CASE("a tree comes back with all that belongs to it", "[wedge][round_trip]") {
  Store store;
  const auto top = store.dir / "tree", back = store.dir / "back";
  make_tree(top);
  const auto ids = store.add(top);
  CHECK_FALSE(ids.partial);
  const auto rows = rows_of(top);
  CHECK(ids.entries == rows.size());

  wedge::WriteOptions options;
  options.fidelity.fifos = options.fidelity.devices = true;
  std::vector<std::string> told;
  options.on_row = [&](const Row& row) { told.push_back(row.path); };
  const auto summary = wedge::write_tree(*store.store, ids.manifest, ids.layout,
                                         open_dir(store.dir.path()).get(), "back", options);
  CHECK(summary.skipped_special == 0);
  CHECK(told.size() == rows.size());
  auto written = rows_of(back);
  REQUIRE(written.size() == rows.size());
  for (std::size_t i = 1; i < rows.size(); ++i) {  // the top keeps mode 0700 and no time
    CHECK(formats::to_line(written[i]) == formats::to_line(rows[i]));
    CHECK(written[i] == rows[i]);
  }
  struct stat one, two;
  REQUIRE(::stat((back + "/dir/file").c_str(), &one) == 0);
  REQUIRE(::stat((back + "/hollow/third").c_str(), &two) == 0);
  CHECK(one.st_ino == two.st_ino);
  CHECK(one.st_nlink == 3);
  REQUIRE(::stat(back.c_str(), &one) == 0);
  CHECK((one.st_mode & 07777) == 0700);
  const auto again = store.add(back);
  CHECK(again.layout == ids.layout);
  CHECK(again.tree == ids.tree);
}

TEST_CASE("special files are left out unless asked for", "[wedge][round_trip]") {
  Store store;
  const auto top = store.dir / "tree";
  make_tree(top);
  const auto ids = store.add(top);
  const auto summary =
      wedge::write_tree(*store.store, ids.manifest, ids.layout, open_dir(store.dir.path()).get(), "back", {});
  CHECK(summary.skipped_special == 1);
  struct stat info;
  CHECK(::lstat((store.dir / "back/pipe").c_str(), &info) != 0);
  auto rows = rows_of(top);
  rows[0] = rows_of(store.dir / "back")[0];
  CHECK(compare(store.dir / "back", rows).empty());
}

TEST_CASE("each kind of difference is found exactly once", "[wedge][compare]") {
  using Kind = wedge::Difference::Kind;
  const tests::TempDir dir;
  const auto top = dir / "tree";
  make_tree(top);
  const auto rows = rows_of(top);
  wedge::CompareOptions options;
  options.fidelity.fifos = options.fidelity.devices = true;
  CHECK(compare(top, rows, options).empty());
  const auto keep_time = [&](const std::string& path, const auto& change) {
    struct stat info;
    REQUIRE(::lstat(path.c_str(), &info) == 0);
    change();
    const timespec times[] = {info.st_mtim, info.st_mtim};
    REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0);
  };
  std::string path;
  Kind kind = Kind::missing;
  std::size_t count = 1;
  const auto dir_of = [&](const std::string& name) {
    return (top + "/" + name).substr(0, (top + "/" + name).rfind('/'));
  };
  const auto inside = [&](const std::string& name, const auto& change) {
    path = name;
    keep_time(dir_of(name), change);
  };
  SECTION("missing file") {
    inside("dir/tool", [&] { REQUIRE(::unlink((top + "/dir/tool").c_str()) == 0); });
  }
  SECTION("missing directory") {
    inside("hollow", [&] { base::remove_tree(AT_FDCWD, top + "/hollow"); });
    count = 2;  // and the link in it
  }
  SECTION("missing last path") {
    inside("pipe", [&] { REQUIRE(::unlink((top + "/pipe").c_str()) == 0); });
  }
  SECTION("extra file between") {
    kind = Kind::extra;
    inside("dir/file.x", [&] { put_file(top + "/dir/file.x", ""); });
  }
  SECTION("extra path at the end") {
    kind = Kind::extra;
    inside("zz", [&] { REQUIRE(::symlink("x", (top + "/zz").c_str()) == 0); });
  }
  SECTION("extra directory with a file") {
    kind = Kind::extra;
    inside("new", [&] { put_file(top + "/new/file", ""); });
    count = 2;
  }
  SECTION("type") {
    kind = Kind::type;
    inside("empty", [&] {
      REQUIRE(::unlink((top + "/empty").c_str()) == 0);
      REQUIRE(::mkdir((top + "/empty").c_str(), 0755) == 0);
    });
  }
  SECTION("content of the same size and time") {
    kind = Kind::content;
    path = "large";
    keep_time(top + "/large", [&] {
      const auto fd = base::open_at(AT_FDCWD, top + "/large", O_WRONLY);
      REQUIRE(::pwrite(fd.get(), "\0\0\0", 3, 150000) == 3);
    });
  }
  SECTION("size") {
    kind = Kind::content;
    path = "large";
    keep_time(top + "/large", [&] { REQUIRE(::truncate((top + "/large").c_str(), 299999) == 0); });
  }
  SECTION("mode") {
    kind = Kind::metadata;
    path = "dir/tool";
    REQUIRE(::chmod((top + "/dir/tool").c_str(), 0700) == 0);
  }
  SECTION("mode of a directory") {
    kind = Kind::metadata;
    path = "dir/sub";
    REQUIRE(::chmod((top + "/dir/sub").c_str(), 0700) == 0);
  }
  SECTION("time") {
    kind = Kind::metadata;
    path = "empty";
    const timespec times[] = {{-5, 8}, {-5, 8}};
    REQUIRE(::utimensat(AT_FDCWD, (top + "/empty").c_str(), times, 0) == 0);
  }
  SECTION("attribute") {
    if (::setxattr((top + "/dir/tool").c_str(), "user.more", "1", 1, 0) != 0) {
      WARN("SKIPPED: no user attributes on this file system");
      return;
    }
    kind = Kind::metadata;
    path = "dir/tool";
  }
  SECTION("link target") {
    kind = Kind::metadata;
    path = "dir/link";
    keep_time(top + "/dir", [&] {
      keep_time(top + "/dir/link", [&] {
        REQUIRE(::unlink((top + "/dir/link").c_str()) == 0);
        REQUIRE(::symlink("elsewhere", (top + "/dir/link").c_str()) == 0);
      });
    });
  }
  const auto found = compare(top, rows, options);
  REQUIRE(found.size() == count);
  for (const auto& difference : found) CHECK(difference.kind == kind);
  CHECK(found[0].path == path);
}

TEST_CASE("trees that could escape are refused and leave the rest alone", "[wedge][round_trip]") {
  Store store;
  const auto blob = store.put("evil").hex();
  formats::LayoutWriter writer(ObjectFormat::sha256, [&](base::Bytes text, bool) {
    return store.put(base::as_chars(text), formats::BlobKind::layout);
  });
  const auto layout = writer.finish();
  const std::string top = "manifest 1 sha256\nd 755 0 0 0.000000000 - - .\n";
  const std::string f = "f 644 0 0 0.000000000 4 " + blob + " ";
  base::make_directories(store.dir / "outside");
  int number = 0;
  for (const std::string& rows : std::vector<std::string>{
           "l - 0 0 0.000000000 - ../outside a\n" + f + "a/evil\n",
           f + "../outside/evil\n",
           f + store.dir / "outside/evil\n",
           "d 755 0 0 0.000000000 - - a\nl - 0 0 0.000000000 - ../../outside a/b\n" + f + "a/b/evil\n",
           f + "a\nh - - - - - ../outside b\n",
           "d 755 0 0 0.000000000 - - a\nh - - - - - a b\n",
           "f 644 0 0 0.000000000 5 " + blob + " a\n",
       }) {
    INFO(rows);
    const auto manifest = store.put(top + rows, formats::BlobKind::manifest);
    CHECK(tests::category_of([&] {
            (void)wedge::write_tree(*store.store, manifest, layout, open_dir(store.dir.path()).get(),
                                    "out" + std::to_string(number++), {});
          }) == Category::refused);
    CHECK(base::list_directory(open_dir(store.dir / "outside").get()).empty());
  }
}

TEST_CASE("a link into a tree that is there goes to a path of the tree only", "[wedge][tree]") {
  Store store;
  const auto present = store.dir / "present";
  put_file(present + "/row", "a row");
  put_file(present + "/mine", "no row");
  vat::Adder adder(*store.store);
  formats::ManifestWriter manifest(ObjectFormat::sha256, adder.put_text(formats::BlobKind::manifest));
  for (auto row : rows_of(present))
    if (row.path != "mine") manifest.add(row);
  Row link;
  link.type = Row::Type::hard_link;
  link.path = "to";
  link.target = GENERATE("row", "mine");
  manifest.add(link);
  const auto layout =
      formats::LayoutWriter(ObjectFormat::sha256, adder.put_text(formats::BlobKind::layout)).finish();
  const auto id = manifest.finish();
  (void)adder.finish();
  const auto top = open_dir(present);
  wedge::WriteOptions options;
  options.reuse_top = top.get();
  options.is_there = [](const Row& row) { return row.type != Row::Type::hard_link; };
  const auto write = [&] {
    (void)wedge::write_tree(*store.store, id, layout, open_dir(store.dir.path()).get(), "new", options);
  };
  if (link.target == "mine") {
    CHECK(tests::category_of(write) == Category::refused);
  } else {
    write();
    CHECK(tests::read_file(store.dir / "new/to") == "a row");
  }
}

TEST_CASE("a tree deeper than a manifest can say is refused, and named", "[wedge][scan]") {
  const tests::TempDir dir;
  auto at = open_dir(dir.path());
  for (std::size_t depth = 0; depth <= formats::kMaxDepth; ++depth) {
    REQUIRE(::mkdirat(at.get(), "d", 0777) == 0);
    at = base::open_directory(at.get(), "d");
  }
  CHECK_THAT(tests::message_of([&] { (void)rows_of(dir.path()); }),
             Catch::Contains("a path that a manifest cannot hold"));
}

TEST_CASE("a mode within a list gives nobody what the list denies somebody", "[wedge]") {
  // An entry: tag, permissions, id.
  const auto list = [](const std::vector<std::array<std::uint16_t, 2>>& entries) {
    std::string value("\2\0\0\0", 4);
    for (const auto& [tag, allowed] : entries) {
      for (const auto number : {tag, allowed}) value += {static_cast<char>(number), '\0'};
      value += "\xff\xff\xff\xff";
    }
    return std::map<std::string, std::string>{{"system.posix_acl_access", value}};
  };
  using wedge::internal::mode_within_acl;
  CHECK(mode_within_acl(0644, {}) == 0644);
  CHECK(mode_within_acl(0644, {{"user.x", "y"}}) == 0644);
  CHECK(mode_within_acl(0644, list({{1, 6}, {2, 0}, {4, 4}, {16, 4}, {32, 4}})) ==
        0600);  // a user may nothing
  CHECK(mode_within_acl(0644, list({{1, 6}, {4, 4}, {8, 0}, {16, 4}, {32, 4}})) ==
        0600);  // a group may nothing
  CHECK(mode_within_acl(0664, list({{1, 6}, {2, 4}, {4, 0}, {16, 6}, {32, 4}})) ==
        0604);  // the group may nothing
  CHECK(mode_within_acl(02775, list({{1, 7}, {2, 7}, {4, 7}, {16, 7}, {32, 5}})) == 02775);
  CHECK(mode_within_acl(0644, {{"system.posix_acl_access", "\2"}}) == 0644);  // none
}
