#include "formats/vref/vref.h"

#include <catch2/catch.hpp>

#include "tests/formats/damage.h"

using base::Category;
using base::ObjectFormat;
using base::ObjectId;
using formats::parse_vref;
using formats::to_text;
using formats::Vref;

namespace {

const std::string kA(64, 'a'), kB(64, 'b'), kC(64, 'c');

ObjectId id(const std::string& hex) {
  return ObjectId::parse(ObjectFormat::sha256, hex).value();
}

const std::string kTree =
    "{\n  \"vref\": 1,\n  \"type\": \"tree\",\n  \"object-format\": \"sha256\",\n  \"manifest\": \"" + kA +
    "\",\n  \"layout\": \"" + kB + "\",\n  \"tree\": \"" + kC +
    "\",\n  \"size\": 123456789,\n  \"entries\": 4321,\n  \"provenance\": { \"url\": \"https://x.org/\", "
    "\"added\": \"2026-11-21T10:00:00Z\" }\n}\n";

/// The least a vref of that type says, with `more` members before its end.
std::string file_vref(const std::string& more = {}) {
  return R"({"vref":1,"type":"file","object-format":"sha256","blob":")" + kA + R"(","size":5)" + more + "}";
}
std::string image_vref(const std::string& more = {}) {
  return R"({"vref":1,"type":"image","object-format":"sha256","recipe":")" + kA + R"(","size":5)" + more +
         "}";
}
std::string tree_vref(const std::string& more = {}) {
  return R"({"vref":1,"type":"tree","object-format":"sha256","manifest":")" + kA + R"(","layout":")" + kB +
         R"(","size":5)" + more + "}";
}

bool refused(std::string_view text) {
  return tests::category_of([&] { (void)parse_vref(text); }) == Category::refused;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a vref of a tree is spelled as documented", "[vref]") {
  Vref vref;
  vref.manifest = id(kA);
  vref.layout = id(kB);
  vref.tree = id(kC);
  vref.size = 123456789;
  vref.entries = 4321;
  vref.provenance = {{"url", "https://x.org/"}, {"added", "2026-11-21T10:00:00Z"}};
  CHECK(to_text(vref) == kTree);
  CHECK(parse_vref(kTree) == vref);
}

TEST_CASE("files and images come back", "[vref]") {
  for (const auto* unpack : {"", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"}) {
    Vref vref;
    vref.type = Vref::Type::file;
    vref.blob = id(kA);
    vref.recipe = id(kB);
    vref.size = UINT64_MAX;
    vref.unpack = unpack;
    CHECK(parse_vref(to_text(vref)) == vref);
    vref.recipe.reset();
    CHECK(parse_vref(to_text(vref)) == vref);
  }
  Vref image;
  image.type = Vref::Type::image;
  image.object_format = ObjectFormat::sha1;
  image.recipe = ObjectId::parse(ObjectFormat::sha1, std::string(40, 'd'));
  image.size = std::uint64_t{1} << 40;
  CHECK(parse_vref(to_text(image)) == image);
  image.blob = image.recipe;
  CHECK(parse_vref(to_text(image)) == image);
}

TEST_CASE("keys are written in one order whatever order they came in", "[vref]") {
  const std::string mixed =
      R"({"size":5,"provenance":{"b":1,"a":2},"blob":")" + kA +
      R"(","object-format":"sha256","x":0,"type":"file","unpack":"tar","vref":1,"recipe":")" + kB + "\"}";
  CHECK(to_text(parse_vref(mixed)) ==
        "{\n  \"vref\": 1,\n  \"type\": \"file\",\n  \"object-format\": \"sha256\",\n  \"blob\": \"" + kA +
            "\",\n  \"recipe\": \"" + kB +
            "\",\n  \"size\": 5,\n  \"unpack\": \"tar\",\n  \"provenance\": { \"b\": 1, \"a\": 2 },\n"
            "  \"x\": 0\n}\n");
}

TEST_CASE("unknown keys survive in their order", "[vref]") {
  const auto vref = parse_vref(
      file_vref(R"(,"z":{"k":[1,"two",null]},"a":1.5,"provenance":{"new":true},"m":18446744073709551615)"));
  CHECK(vref.unknown.size() == 3);
  const auto text = to_text(vref);
  CHECK(text.ends_with(
      "  \"provenance\": { \"new\": true },\n  \"z\": { \"k\": [1, \"two\", null] },\n  \"a\": 1.5,\n"
      "  \"m\": 18446744073709551615\n}\n"));
  CHECK(parse_vref(text) == vref);
  CHECK(to_text(parse_vref(text)) == text);
}

TEST_CASE("only the time of adding is passed over in comparison", "[vref]") {
  const auto vref = parse_vref(kTree);
  const auto same = [&](std::string_view from, std::string_view to) {
    return formats::same_but_for_fetch(vref, parse_vref(replaced(kTree, from, to)));
  };
  CHECK(same("2026-11-21T10", "2027-01-01T00"));
  CHECK(same(", \"added\": \"2026-11-21T10:00:00Z\"", ""));
  CHECK_FALSE(same("x.org", "y.org"));
  CHECK_FALSE(same("4321", "4322"));
  CHECK_FALSE(same("123456789", "123456788"));
  CHECK_FALSE(same(kA, kC));
  CHECK_FALSE(same("\"entries\": 4321", "\"entries\": 4321, \"added\": 1"));
}

TEST_CASE("each type has the ids it needs and none it has no use for", "[vref]") {
  CHECK(parse_vref(file_vref()).blob == id(kA));
  CHECK(parse_vref(image_vref()).recipe == id(kA));
  CHECK(parse_vref(tree_vref()).layout == id(kB));
  const auto key = [](const char* name) { return ",\"" + std::string(name) + "\":\"" + kC + "\""; };
  for (const auto* name : {"manifest", "layout", "tree"}) {
    CHECK(refused(file_vref(key(name))));
    CHECK(refused(image_vref(key(name))));
  }
  CHECK(refused(file_vref(",\"entries\":1")));
  CHECK(refused(image_vref(",\"entries\":1")));
  for (const auto* name : {"blob", "recipe"}) CHECK(refused(tree_vref(key(name))));
  CHECK(refused(replaced(file_vref(), "blob", "recipe")));
  CHECK(refused(replaced(image_vref(), "recipe", "blob")));
  CHECK(refused(replaced(tree_vref(), "layout", "tree")));
  CHECK(refused(replaced(tree_vref(), "manifest", "tree")));
  CHECK(refused(image_vref(R"(,"unpack":"tar")")));
  CHECK(refused(tree_vref(R"(,"unpack":"tar")")));
  CHECK(refused(tree_vref(R"(,"materialize":"raw")")));
  CHECK(refused(image_vref(R"(,"materialize":"vmdk")")));
  CHECK(refused(file_vref(",\"parent\":\"" + std::string(64, 'a') + "\"")));
}

TEST_CASE("malformed vrefs are refused", "[vref]") {
  for (const std::string& bad : {std::string(),
                                 std::string("{}"),
                                 std::string("[]"),
                                 std::string("1"),
                                 std::string("{\"vref\":1}"),
                                 kTree + "x",
                                 kTree + kTree,
                                 replaced(kTree, "1,", "\"1\","),
                                 replaced(kTree, "1,", "-1,"),
                                 replaced(kTree, "1,", "1.0,"),
                                 replaced(kTree, "1,", "null,"),
                                 replaced(kTree, "\"tree\",", "\"Tree\","),
                                 replaced(kTree, "\"tree\",", "1,"),
                                 replaced(kTree, "sha256", "sha512"),
                                 replaced(kTree, "sha256", "sha1"),
                                 replaced(kTree, kA, kA.substr(1)),
                                 replaced(kTree, kA, "A" + kA.substr(1)),
                                 replaced(kTree, "\"" + kA + "\"", "1"),
                                 replaced(kTree, "\"" + kA + "\"", "null"),
                                 replaced(kTree, "123456789", "-1"),
                                 replaced(kTree, "123456789", "1.5"),
                                 replaced(kTree, "123456789", "18446744073709551616"),
                                 replaced(kTree, "123456789", "\"1\""),
                                 replaced(kTree, "4321", "\"4321\""),
                                 replaced(kTree, "\"entries\"", "\"size\""),
                                 replaced(kTree, "\"size\"", "\"sizes\""),
                                 tree_vref(",\"provenance\":[]"),
                                 tree_vref(",\"provenance\":\"x\""),
                                 file_vref(",\"unpack\":\"zip\""),
                                 file_vref(",\"unpack\":\"tar.lz\""),
                                 file_vref(",\"unpack\":1"),
                                 file_vref(",\"type\":\"file\"")}) {
    INFO(bad);
    CHECK(refused(bad));
  }
}

TEST_CASE("a vref of another version is not for this program", "[vref]") {
  for (const auto* text :
       {R"({"vref":2})", R"({"vref":0,"type":"tree"})", R"({"vref":18446744073709551615,"new":[]})"})
    CHECK(tests::category_of([&] { (void)parse_vref(text); }) == Category::no_store);
}

TEST_CASE("a vref larger than 1 MiB is refused", "[vref]") {
  const auto of_size = [](std::size_t size) {
    const auto empty = file_vref(",\"pad\":\"\"");
    return file_vref(",\"pad\":\"" + std::string(size - empty.size(), 'p') + "\"");
  };
  CHECK(parse_vref(of_size(formats::kMaxVref)).unknown.size() == 1);
  CHECK(refused(of_size(formats::kMaxVref + 1)));
}

TEST_CASE("a damaged vref is refused or read as what it says", "[vref]") {
  const auto text = tests::to_buffer(kTree);
  tests::for_each_truncation(base::Bytes(text).subspan(0, text.size() - 1),
                             [](const base::Buffer& bytes) { CHECK(refused(base::as_chars(bytes))); });
  tests::for_each_flip(text, [](const base::Buffer& bytes) {
    try {
      const auto vref = parse_vref(base::as_chars(bytes));
      CHECK(parse_vref(to_text(vref)) == vref);
    } catch (const base::Error& error) {  // no_store: the version itself was hit
      CHECK((error.category() == Category::refused || error.category() == Category::no_store));
    }
  });
}

TEST_CASE("a vref of a type that is not known says so", "[vref]") {
  CHECK(tests::message_of([] { (void)parse_vref(R"({"vref":1,"type":"treee"})"); }) ==
        "vref: unknown type 'treee'");
}
