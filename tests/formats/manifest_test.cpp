#include "formats/text/manifest.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/formats/text_store.h"

using base::Category;
using base::ObjectFormat;
using formats::ManifestReader;
using formats::ManifestWriter;
using formats::Row;
using Type = Row::Type;

namespace {

const std::string kId = tests::numbered_id(1).hex();
const std::string kTop = "d 755 0 0 0.000000000 - - .\n";

std::vector<Row> read(tests::TextStore& store, base::Buffer root) {
  ManifestReader reader(std::move(root), ObjectFormat::sha256, store.get());
  std::vector<Row> rows;
  for (Row row; reader.next(row);) rows.push_back(row);
  return rows;
}

base::ObjectId write(tests::TextStore& store, const std::vector<Row>& rows) {
  ManifestWriter writer(ObjectFormat::sha256, store.put());
  for (const auto& row : rows) writer.add(row);
  return writer.finish();
}

std::string dir(const std::string& path) {
  return "d 755 0 0 0.000000000 - - " + path + "\n";
}
std::string file(const std::string& path) {
  return "f 644 0 0 0.000000000 5 " + kId + " " + path + "\n";
}
std::string hard_link(const std::string& target, const std::string& path) {
  return "h - - - - - " + target + " " + path + "\n";
}
/// A manifest of the top row and `rows`.
std::string manifest(const std::string& rows) {
  return "manifest 1 sha256\n" + kTop + rows;
}
bool refused(const std::string& root) {
  tests::TextStore store;
  return tests::category_of([&] { (void)read(store, tests::to_buffer(root)); }) == Category::refused;
}
std::size_t count(const std::string& root) {
  tests::TextStore store;
  return read(store, tests::to_buffer(root)).size();
}

/// One row of each type with everything a row can have.
std::vector<Row> every_kind() {
  const auto base_row = [](Type type, std::string path) {
    Row row;
    row.type = type;
    row.path = std::move(path);
    row.mode = 07755;
    row.uid = 4294967295;
    row.gid = 7;
    row.mtime = {-4611686018427387904, 1};
    return row;
  };
  std::vector<Row> rows{base_row(Type::directory, ".")};
  rows.push_back(base_row(Type::character_device, "c"));
  rows.back().target = "4294967295:0";
  rows.push_back(base_row(Type::block_device, "c.b"));
  rows.back().target = "8:1";
  rows.push_back(base_row(Type::directory, "d"));
  rows.back().xattrs = {{"user.empty", ""}, {"user.x=y z", std::string("\0\xff", 2)}};
  rows.push_back(base_row(Type::file, "d/f"));
  rows.back().size = UINT64_MAX;
  rows.back().blob = tests::numbered_id(1);
  rows.back().sparse = true;
  rows.back().xattrs = {{"user.a", "b"}};
  rows.push_back(base_row(Type::symlink, "d/l"));
  rows.back().mode = 0;
  rows.back().target = "../a b\n\xc3\xa9";
  rows.push_back(base_row(Type::fifo, "d.p"));
  rows.push_back(Row{});
  rows.back().type = Type::hard_link;
  rows.back().target = "d/f";
  rows.back().path = "h";
  return rows;
}

}  // namespace

TEST_CASE("rows are spelled as documented and come back", "[manifest]") {
  const auto rows = every_kind();
  const std::string meta = " 4294967295 7 -4611686018427387903.999999999 ";
  const std::string expected[] = {
      "d 7755" + meta + "- - .",
      "c 7755" + meta + "- 4294967295:0 c",
      "b 7755" + meta + "- 8:1 c.b",
      "d 7755" + meta + "- - d xattr.user.empty= xattr.user.x\\075y\\040z=AP8=",
      "f 7755" + meta + "18446744073709551615 " + kId + " d/f sparse=1 xattr.user.a=Yg==",
      "l -" + meta + "- ../a\\040b\\012\xc3\xa9 d/l",
      "p 7755" + meta + "- - d.p",
      "h - - - - - d/f h",
  };
  REQUIRE(rows.size() == std::size(expected));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CHECK(formats::to_line(rows[i]) == expected[i]);
    CHECK(formats::parse_row(expected[i], ObjectFormat::sha256) == rows[i]);
  }
  tests::TextStore store;
  (void)write(store, rows);
  CHECK(read(store, store.root()) == rows);
}

TEST_CASE("a long manifest has the id that the documented rules give", "[manifest]") {
  tests::TextStore store;
  std::vector<Row> rows(1);
  rows[0].type = Type::directory;
  rows[0].mode = 0755;
  rows[0].path = ".";
  for (std::size_t i = 0; i < 20000; ++i) {
    Row row;
    row.mode = 0644;
    row.uid = 1000;
    row.gid = 100;
    row.mtime = {static_cast<std::int64_t>(i), static_cast<std::uint32_t>(i)};
    row.size = i;
    row.blob = tests::numbered_id(i);
    const auto number = std::to_string(i);
    row.path = "f" + std::string(5 - number.size(), '0') + number + " " + std::to_string(i % 7);
    rows.push_back(std::move(row));
  }
  // Golden value: the rules of docs/formats/text-objects.md written anew in Python.
  CHECK(write(store, rows).hex() == "37cb0a54c650fe2cccb691d46d90ba41aeed7ea5dbd2dc0a198916fe9d3f1b87");
  CHECK(store.ids().size() == 24);
  CHECK(read(store, store.root()) == rows);
}

TEST_CASE("paths sort depth first with a directory before its members", "[manifest]") {
  const std::vector<std::string> sorted{".",  "a",    "a/b", "a/b/c", "a/c", "a\x01", "a b",
                                        "a!", "a-/x", "a.",  "aa",    "b",   "\x80",  "\xff"};
  for (std::size_t i = 0; i < sorted.size(); ++i)
    for (std::size_t j = 0; j < sorted.size(); ++j) {
      INFO(sorted[i] << " and " << sorted[j]);
      CHECK(formats::compare_paths(sorted[i], sorted[j]) == (i < j ? -1 : i > j ? 1 : 0));
    }
}

TEST_CASE("paths that can escape are not safe", "[manifest]") {
  const std::string longest(formats::kMaxName, 'n');
  for (const std::string good : {".", "a", "a/b", "...", "..a", "a..", ".a", "a\nb", "\xff", "-", " "})
    CHECK(formats::is_safe_path(good));
  CHECK(formats::is_safe_path(longest));
  for (const std::string& bad :
       {std::string(), std::string("/"), std::string("/a"), std::string("a/"), std::string("a//b"),
        std::string(".."), std::string("../a"), std::string("a/.."), std::string("a/../b"),
        std::string("./a"), std::string("a/."), std::string("a/./b"), std::string("./"),
        std::string("a\0b", 3), std::string("\0", 1), longest + "n", "a/" + longest + "n"}) {
    INFO(formats::escape(bad));
    CHECK_FALSE(formats::is_safe_path(bad));
  }
  std::string deep = "d";
  for (std::size_t i = 1; i < formats::kMaxDepth; ++i) deep += "/d";
  CHECK(formats::is_safe_path(deep));
  CHECK_FALSE(formats::is_safe_path(deep + "/d"));
  std::string wide = longest;
  while (wide.size() + 1 + longest.size() <= formats::kMaxPath) wide += "/" + longest;
  CHECK(formats::is_safe_path(wide));
  CHECK_FALSE(formats::is_safe_path(wide + "/" + longest));
}

TEST_CASE("rows with paths that can escape are refused", "[manifest]") {
  for (const auto* path :
       {"", "/", "/etc/passwd", "..", "../x", "a/..", "a//b", "a/", "./a", "a\\000b", "a/./b"}) {
    INFO(path);
    CHECK(refused(manifest(file(path))));
    CHECK(refused(manifest(dir("a") + file("a/b") + hard_link(path, "z"))));
  }
}

TEST_CASE("rows that are not canonical are refused", "[manifest]") {
  const std::string meta = " 0 0 0.000000000 ";
  const std::string f = "f 644" + meta;
  const std::string d = "d 755" + meta + "- - a";
  CHECK(count(manifest(d + "\n")) == 2);
  for (const auto& bad : std::vector<std::string>{
           "", " ", "f", "x 644" + meta + "5 " + kId + " a", "ff 644" + meta + "5 " + kId + " a", " " + d,
           d + " ", d + "  ", d + "\r",
           // numbers
           "d 0755" + meta + "- - a", "d 10000" + meta + "- - a", "d 8" + meta + "- - a",
           "d" + meta + "- - a", "d -" + meta + "- - a", "d  755" + meta + "- - a",
           "d 755 00 0 0.000000000 - - a", "d 755 4294967296 0 0.000000000 - - a",
           "d 755 0 -1 0.000000000 - - a", "d 755 - 0 0.000000000 - - a",
           // times
           "d 755 0 0 0 - - a", "d 755 0 0 0.0 - - a", "d 755 0 0 0.0000000000 - - a",
           "d 755 0 0 00.000000000 - - a", "d 755 0 0 -0.000000000 - - a", "d 755 0 0 .000000000 - - a",
           "d 755 0 0 0.00000000x - - a", "d 755 0 0 +1.000000000 - - a",
           "d 755 0 0 9223372036854775808.000000000 - - a", "d 755 0 0 4611686018427387905.000000000 - - a",
           "d 755 0 0 - - - a", "d 755 0 0 0.-00000001 - - a",
           // sizes and references
           f + "- " + kId + " a", f + "05 " + kId + " a", f + "18446744073709551616 " + kId + " a",
           f + "5 - a", f + "5 " + kId.substr(1) + " a", f + "5 " + kId.substr(0, 40) + " a",
           "d 755" + meta + "0 - a", "d 755" + meta + "- x a", "d 755" + meta + "- " + kId + " a",
           "p 644" + meta + "- x a", "l 777" + meta + "- t a", "l -" + meta + "-  a", "l -" + meta + "0 t a",
           "l -" + meta + "- t\\000 a", "l -" + meta + "- " + std::string(65536, 't') + " a",
           "h 644 - - - - b c", "h - 0 - - - b c", "h - - - 0.000000000 - b c", "h - - - - 0 b c",
           "c 644" + meta + "- - a", "c 644" + meta + "- 1 a", "c 644" + meta + "- 1: a",
           "c 644" + meta + "- :1 a", "b 644" + meta + "- 01:1 a", "b 644" + meta + "- 1:4294967296 a",
           "b 644" + meta + "- 1:1:1 a",
           // escapes
           d + "\\x", d + "\\04", d + "\\141", d + "\\075", d + "\\377", d + "\\400", d + "\\57b", d + "\x7f",
           d + "\tb",
           // keys
           d + " x", d + " =", d + " x=1", d + " Sparse=1", d + " sparse=1", f + "5 " + kId + " a sparse=0",
           f + "5 " + kId + " a sparse=", f + "5 " + kId + " a sparse=1 sparse=1",
           f + "5 " + kId + " a sparse=1 ", f + "5 " + kId + " a  sparse=1",
           f + "5 " + kId + " a xattr.u=YQ== sparse=1",
           "h - - - - - . z xattr.u=YQ==", d + " xattr.=YQ==", d + " xattr.u", d + " xattr.u=YQ",
           d + " xattr.u=YQ=", d + " xattr.u=YR==", d + " xattr.u=YQ==YQ==", d + " xattr.u=Y-==",
           d + " xattr.u=YQ== xattr.u=YQ==", d + " xattr.b=YQ== xattr.a=YQ==", d + " xattr.\\000=YQ==",
           d + " xattr.a\\141=YQ==", d + " xattr.a\\053=YQ=="}) {
    INFO(bad.substr(0, 200));
    CHECK(refused(manifest(bad + "\n")));
    CHECK(tests::category_of([&] { (void)formats::parse_row(bad, ObjectFormat::sha256); }) ==
          Category::refused);
  }
  CHECK(refused(manifest(file("a") + "\n")));
  CHECK(refused(manifest(dir("a")).substr(0, manifest(dir("a")).size() - 1)));
}

TEST_CASE("disorder and duplicates are refused", "[manifest]") {
  CHECK(count(manifest(file("a") + file("b"))) == 3);
  for (const auto& bad :
       {file("b") + file("a"), file("a") + file("a"), dir("a") + file("a"), dir("a") + file("a/b") + dir("a"),
        dir("a") + file("a.b") + file("a/b"), kTop, file("a") + kTop, dir("a") + file("a/b") + file("a/a"),
        dir("a") + dir("b") + file("a/c")}) {
    INFO(bad);
    CHECK(refused(manifest(bad)));
  }
}

TEST_CASE("rows below what is no directory are refused", "[manifest]") {
  CHECK(count(manifest(dir("a") + dir("a/b") + file("a/b/c") + file("a/d") + file("a.d") + dir("b") +
                       file("b/c"))) == 8);
  for (const auto& bad :
       {file("a/b"), file("a") + file("a/b"), dir("a") + file("a/b/c"),
        dir("a") + dir("a/b") + file("a/bc/d"), dir("a") + file("a.b/c"),
        dir("a") + dir("a/b") + file("a/c/d"), dir("aa") + file("b/a"), dir("a") + file("aa/b"),
        dir("a") + "l - 0 0 0.000000000 - / a/b\n" + file("a/b/c"),
        "p 644 0 0 0.000000000 - - a\n" + file("a/b"), dir("a") + hard_link("a", "b") + file("b/c")}) {
    INFO(bad);
    CHECK(refused(manifest(bad)));
  }
}

TEST_CASE("a hard link names an earlier path", "[manifest]") {
  CHECK(count(manifest(file("a") + hard_link("a", "b"))) == 3);
  CHECK(count(manifest(dir("a") + file("a/b") + hard_link("a/b", "a/c"))) == 4);
  for (const auto& bad : {hard_link("b", "a") + file("b"), hard_link("a", "a"),
                          file("a") + hard_link("a/b", "a"), file("a") + hard_link("-", "!"),
                          file("a") + hard_link("/a", "b"), file("a") + hard_link("../a", "b")})
    CHECK(refused(manifest(bad)));
}

TEST_CASE("the first row is the tree itself", "[manifest]") {
  for (const auto& bad :
       {std::string("manifest 1 sha256\n"), "manifest 1 sha256\n" + dir("a"),
        "manifest 1 sha256\n" + file("."), std::string("manifest 1 sha256\nl - 0 0 0.000000000 - /etc .\n"),
        "manifest 1 sha256 \n" + kTop, "manifest 1 sha256 x\n" + kTop, "manifest 1 sha1\n" + kTop,
        "manifest 2 sha256\n" + kTop, "layout 1 sha256\n" + kTop}) {
    INFO(bad);
    CHECK(refused(bad));
  }
}

TEST_CASE("a manifest writer given rows out of order is a bug", "[manifest]") {
  auto rows = every_kind();
  std::swap(rows[1], rows[2]);
  tests::TextStore store;
  CHECK(tests::category_of([&] { (void)write(store, rows); }) == Category::internal);
  rows.erase(rows.begin());
  CHECK(tests::category_of([&] { (void)write(store, rows); }) == Category::internal);
}

TEST_CASE("order is checked across pieces", "[manifest]") {
  tests::TextStore store;
  const auto top = store.add(kTop + file("b")).hex() + " 2 .\n";
  const auto early = store.add(file("a")).hex() + " 1 a\n";
  const auto late = store.add(file("c")).hex() + " 1 c\n";
  const auto below = store.add(file("b/c")).hex() + " 1 b/c\n";
  const std::string head = "manifest 1 sha256 level 2\n";
  CHECK(read(store, tests::to_buffer(head + top + late)).size() == 3);
  for (const auto& bad : {head + top + early, head + top + top, head + late + top, head + top + below})
    CHECK(tests::category_of([&] { (void)read(store, tests::to_buffer(bad)); }) == Category::refused);
}

TEST_CASE("a damaged manifest is refused, or is the canonical form of another", "[manifest]") {
  tests::TextStore store;
  (void)write(store, every_kind());
  const auto root = store.root();
  const auto try_read = [&](const base::Buffer& bytes) {
    std::vector<Row> rows;
    if (!tests::accepts([&] { rows = read(store, bytes); })) return;
    tests::TextStore again;
    (void)write(again, rows);
    CHECK(again.root() == bytes);
  };
  tests::for_each_truncation(root, try_read);
  tests::for_each_flip(root, try_read);
}

TEST_CASE("times are decimal numbers of seconds, before the epoch too", "[manifest]") {
  const std::pair<formats::Timestamp, const char*> times[] = {
      {{0, 0}, "0.000000000"},           {{0, 1}, "0.000000001"},
      {{-1, 999999999}, "-0.000000001"}, {{-1, 0}, "-1.000000000"},
      {{-2, 500000000}, "-1.500000000"}, {{1795000000, 5}, "1795000000.000000005"}};
  for (const auto& [time, text] : times) {
    const std::string line = "d 755 0 0 " + std::string(text) + " - - a";
    const auto row = formats::parse_row(line, ObjectFormat::sha256);
    CHECK(row.mtime == time);
    CHECK(formats::to_line(row) == line);
  }
}

TEST_CASE("a key without a value is told from an unknown one", "[manifest]") {
  tests::TextStore store;
  const auto message = [&](const std::string& key) {
    return tests::message_of([&] { (void)read(store, tests::to_buffer(manifest(dir("a " + key)))); });
  };
  CHECK(message("x") == "manifest: key without value");
  CHECK(message("x=1") != message("x"));
}
