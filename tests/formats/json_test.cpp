#include "formats/json/json.h"

#include <catch2/catch.hpp>

#include "tests/formats/damage.h"

using base::Category;
using formats::json::Object;
using formats::json::parse;
using formats::json::Value;

namespace {

bool refused(std::string_view text) {
  return tests::category_of([&] { (void)parse(text); }) == Category::refused;
}

std::string rewritten(std::string_view text) {
  return formats::json::to_line(parse(text));
}

}  // namespace

TEST_CASE("documents keep the order of their keys", "[json]") {
  CHECK(rewritten(R"( { "z" : 1, "a": [true,false,null, {"m":"x"}] , "": {} } )") ==
        R"({"z":1,"a":[true,false,null,{"m":"x"}],"":{}})");
  CHECK(formats::json::to_document(
            *parse(R"({"z":1,"a":[{"b":2,"c":[]},3],"e":[],"o":{"p":[1,2]}})").find_object()) ==
        "{\n  \"z\": 1,\n  \"a\": [\n    { \"b\": 2, \"c\": [] },\n    3\n  ],\n  \"e\": [],\n  \"o\": { "
        "\"p\": [1, 2] }\n}\n");
  CHECK(formats::json::to_document({}) == "{\n}\n");
}

TEST_CASE("a key that is there twice is refused", "[json]") {
  CHECK(refused(R"({"a":1,"a":1})"));
  CHECK(refused(R"({"a":1,"\u0061":2})"));
  CHECK(refused(R"({"x":[{"a":1,"b":2,"a":3}]})"));
  CHECK(rewritten(R"({"a":{"a":{"a":1}}})") == R"({"a":{"a":{"a":1}}})");
}

TEST_CASE("very many keys take no more than their share of time", "[json]") {
  std::string text = "{";
  for (int i = 0; i < 100000; ++i) text += "\"" + std::to_string(i) + "\":0,";
  CHECK(parse(text + "\"x\":0}").find_object()->size() == 100001);
  CHECK(refused(text + "\"0\":0}"));
}

TEST_CASE("nesting deeper than 64 is refused", "[json]") {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(rewritten(nested(64)) == nested(64));
  CHECK(refused(nested(65)));
  CHECK(refused(std::string(1000000, '[')));
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  CHECK(refused(objects));
}

TEST_CASE("what is not JSON is refused", "[json]") {
  using namespace std::string_view_literals;
  for (const auto bad : {""sv,
                         " "sv,
                         "{"sv,
                         "}"sv,
                         "[1,]"sv,
                         "{\"a\":1,}"sv,
                         "{a:1}"sv,
                         "{'a':1}"sv,
                         "{\"a\" 1}"sv,
                         "[1 2]"sv,
                         "nul"sv,
                         "True"sv,
                         "01"sv,
                         "+1"sv,
                         "1."sv,
                         ".5"sv,
                         "0x1"sv,
                         "1e"sv,
                         "NaN"sv,
                         "Infinity"sv,
                         "1e999"sv,
                         "-"sv,
                         "{} {}"sv,
                         "{}x"sv,
                         "{}\0"sv,
                         "{}\0garbage"sv,
                         "\0{}"sv,
                         "{\0}"sv,
                         "[1]//c"sv,
                         "/**/1"sv,
                         "\"a"sv,
                         "\"\n\""sv,
                         "\"\t\""sv,
                         "\"\0\""sv,
                         "\"\\x\""sv,
                         "\"\\u12\""sv,
                         "\"\\ud800\""sv,
                         "\"\\udc00\""sv,
                         "\"\\ud800\\u0041\""sv}) {
    INFO(std::string(bad));
    CHECK(refused(bad));
  }
}

TEST_CASE("bytes that are not UTF-8 are refused", "[json]") {
  CHECK(rewritten("\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x8c\xb3\"") == "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x8c\xb3\"");
  CHECK(rewritten(R"("\u00e9\ud83c\udf33")") == "\"\xc3\xa9\xf0\x9f\x8c\xb3\"");
  for (const std::string bad : {"\x80", "\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                "\xe2\x82", "\xf8\x88\x80\x80\x80"}) {
    CHECK(refused("\"" + bad + "\""));
    CHECK(refused("{\"" + bad + "\":1}"));
  }
}

TEST_CASE("strings come back whatever they hold", "[json]") {
  std::string all;
  for (char c = 0; c < 0x7f; ++c) all += c;
  all += "\x7f\xc3\xa9";
  CHECK(*parse(formats::json::to_line(Value(all))).find_string() == all);
  CHECK(formats::json::to_line(Value(std::string("\"\\/\n\t\r\0", 7))) == R"("\"\\/\n\t\u000d\u0000")");
}

TEST_CASE("numbers keep their value and their kind", "[json]") {
  for (const auto* text : {"0", "-1", "9223372036854775807", "-9223372036854775808", "9223372036854775808",
                           "18446744073709551615", "1.5", "0.1", "-0.25", "1e+300", "1e-07", "3.0", "-3.0"})
    CHECK(rewritten(text) == text);
  for (const auto* text :
       {"1e2", "1E2", "18446744073709551616", "-9223372036854775809", "0.30000000000000004", "5e-324",
        "123456789012345678901234567890", "1.7976931348623157e308", "-0.0"}) {
    INFO(text);
    const auto value = parse(text);
    CHECK(std::holds_alternative<double>(value.data()));
    CHECK(parse(formats::json::to_line(value)) == value);
  }
  std::uint64_t number = 0;
  CHECK(parse("18446744073709551615").find_unsigned(number));
  CHECK(number == UINT64_MAX);
  for (const auto* bad : {"-1", "1.0", "1e2", "18446744073709551616", "\"1\"", "true", "null", "[]"})
    CHECK_FALSE(parse(bad).find_unsigned(number));
}

TEST_CASE("set replaces in place and appends what is new", "[json]") {
  auto object = *parse(R"({"a":1,"b":2})").find_object();
  formats::json::set(object, "a", "x");
  formats::json::set(object, "c", 3);
  CHECK(formats::json::to_line(object) == R"({"a":"x","b":2,"c":3})");
  CHECK(formats::json::find(object, "d") == nullptr);
  CHECK(*formats::json::find(object, "a")->find_string() == "x");
}

TEST_CASE("a damaged document is refused or comes back as what it says", "[json]") {
  const auto text = tests::to_buffer(R"({"a":[1,-2,3.5,"t\u00e9\n"],"b":{"c":null,"d":true},"e":"é"})");
  const auto try_parse = [](const base::Buffer& bytes) {
    Value value;
    if (tests::accepts([&] { value = parse(base::as_chars(bytes)); }))
      CHECK(parse(formats::json::to_line(value)) == value);
  };
  tests::for_each_truncation(text, [&](const base::Buffer& bytes) { CHECK(refused(base::as_chars(bytes))); });
  tests::for_each_flip(text, try_parse);
}

TEST_CASE("nothing is written that cannot be read", "[json]") {
  for (const auto* text : {"\xff", "a\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80"}) {
    INFO(text);
    CHECK(tests::category_of([&] { (void)formats::json::to_line(Value(text)); }) == base::Category::refused);
    CHECK(tests::category_of([&] {
            (void)formats::json::to_document({{text, 1}});
          }) == base::Category::refused);
  }
  CHECK(formats::json::to_line(Value("\xc3\xa9")) == "\"\xc3\xa9\"");
}
