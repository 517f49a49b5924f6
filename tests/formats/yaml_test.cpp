#include "formats/yaml/yaml.h"

#include <catch2/catch.hpp>

#include "formats/base/error.h"
#include "tests/formats/damage.h"

using base::Category;
using formats::parse_yaml;
using formats::json::to_line;

TEST_CASE("YAML becomes the values of JSON", "[yaml]") {
  CHECK(to_line(parse_yaml("a: 1\nb: [x, \"2\", true, null]\nc:\n  d: e f\n")) ==
        R"({"a":1,"b":["x","2",true,null],"c":{"d":"e f"}})");
  CHECK(to_line(parse_yaml("- 007\n- -1\n- 1.5\n- ~\n- |\n  text\n")) ==
        R"(["007","-1","1.5",null,"text\n"])");
  CHECK(to_line(parse_yaml("")) == "null");
  CHECK(to_line(parse_yaml("# nothing\n")) == "null");
}

TEST_CASE("YAML that is more than plain values is refused", "[yaml]") {
  const auto* text = GENERATE("a: &x 1", "a: *x", "a: !!str 1", "a: 1\na: 2", "[a]: b", "a: [",
                              "a: 1\n---\nb: 2", "a: 1\n\tb: 2", "\x01", "a: \xff");
  CHECK(tests::category_of([&] { (void)parse_yaml(text); }) == Category::usage);
  CHECK_THAT(tests::message_of([] { (void)parse_yaml("a: ["); }), Catch::StartsWith("line 2: did not find"));
}

TEST_CASE("a key of YAML is text", "[yaml]") {
  CHECK(tests::message_of([] { (void)parse_yaml("a: 1\n[a]: b\n"); }) == "line 2: a key that is not text");
}

TEST_CASE("YAML that would take much room is refused", "[yaml]") {
  CHECK(tests::message_of([] { (void)parse_yaml(std::string(1000, '[')); }) == "line 1: nested too deep");
  CHECK(tests::category_of([] { (void)parse_yaml(std::string(formats::kMaxYaml + 1, ' ')); }) ==
        Category::usage);
}
