#include <catch2/catch.hpp>

#include "formats/vat_json/vat_list.h"
#include "formats/vat_json/vat_settings.h"
#include "tests/formats/damage.h"

using base::Category;
using base::ObjectFormat;
using formats::parse_vat_list;
using formats::parse_vat_settings;

namespace {

const std::string kList =
    "{\n  \"version\": 1,\n  \"object-format\": \"sha256\",\n  \"vats\": [\n    { \"url\": \"../deps.vat\", "
    "\"write\": true },\n"
    "    { \"url\": \"https://example.org/deps.vat/\" },\n"
    "    { \"url\": \"s3://bucket/prefix\", \"endpoint\": \"https://x\", \"region\": \"eu\", "
    "\"more\": 1 }\n  ],\n  "
    "\"later\": { \"a\": [1, 2] }\n}\n";

const std::string kSettings =
    "{\n  \"vat\": 1,\n  \"object-format\": \"sha1\",\n  \"chunker\": \"vg1:a=16\",\n  \"uuid\": "
    "\"0-1\"\n}\n";

Category list_error(const std::string& text) {
  return tests::category_of([&] { (void)parse_vat_list(text); });
}
Category settings_error(const std::string& text) {
  return tests::category_of([&] { (void)parse_vat_settings(text); });
}
std::string list_of(const std::string& element) {
  return R"({"version":1,"vats":[)" + element + "]}";
}
std::string list_of_url(const std::string& url) {
  return list_of("{\"url\":\"" + url + "\"}");
}

}  // namespace

TEST_CASE("a vat list comes back byte for byte with keys nobody knows", "[vat_json]") {
  const auto list = parse_vat_list(kList);
  REQUIRE(list.vats.size() == 3);
  CHECK(list.object_format == ObjectFormat::sha256);
  CHECK(list.vats[0].url == "../deps.vat");
  CHECK(list.vats[0].write);
  CHECK_FALSE(list.vats[1].write);
  CHECK(list.vats[2].endpoint == "https://x");
  CHECK(list.vats[2].region == "eu");
  CHECK(list.vats[2].unknown.size() == 1);
  CHECK(list.unknown.size() == 1);
  CHECK(to_text(list) == kList);
}

TEST_CASE("a vat list may be empty or say no more than its version", "[vat_json]") {
  CHECK(parse_vat_list(R"({"version":1,"vats":[]})").vats.empty());
  CHECK(parse_vat_list(R"({"version":1})").object_format == ObjectFormat::sha256);
  CHECK(parse_vat_list(to_text(formats::VatList{})).vats.empty());
}

TEST_CASE("a malformed vat list is a mistake in configuration", "[vat_json]") {
  for (const std::string& bad : {std::string(),
                                 std::string("{}"),
                                 std::string("[]"),
                                 std::string("{"),
                                 std::string(R"({"version":"1"})"),
                                 std::string(R"({"version":1.0})"),
                                 std::string(R"({"version":-1})"),
                                 std::string(R"({"version":1,"version":1})"),
                                 std::string(R"({"version":1,"object-format":"md5"})"),
                                 std::string(R"({"version":1,"object-format":1})"),
                                 std::string(R"({"version":1,"vats":{}})"),
                                 std::string(R"({"version":1} x)"),
                                 list_of("1"),
                                 list_of("\"../x\""),
                                 list_of("{}"),
                                 list_of(R"({"url":""})"),
                                 list_of(R"({"url":1})"),
                                 list_of(R"({"write":true})"),
                                 list_of(R"({"url":"x","write":1})"),
                                 list_of(R"({"url":"x","write":"true"})"),
                                 list_of(R"({"url":"x","region":1})"),
                                 list_of(R"({"url":"x","endpoint":""})"),
                                 list_of(R"({"url":"x"},)")}) {
    INFO(bad);
    CHECK(list_error(bad) == Category::usage);
  }
  CHECK(list_error(R"({"version":2,"new":1})") == Category::no_store);
}

TEST_CASE("a url that a program could take for an option is refused", "[vat_json]") {
  for (const auto* url : {"-oProxyCommand=x", "--", "ssh://-oProxyCommand=x/srv", "ssh://-user@host/srv",
                          "ssh://user@-oProxy/srv", "ssh://a@-b", "https://-host/"}) {
    INFO(url);
    CHECK(list_error(list_of_url(url)) == Category::refused);
  }
  for (const auto* key : {"region", "endpoint"})
    CHECK(list_error(list_of(std::string(R"({"url":"s3://b",")") + key + R"(":"-x"})")) == Category::refused);
  for (const auto* url : {"../a-b", "ssh://user@host/-x", "https://a-b.org/-/x@-y", "./-x", "/srv/a@-b"}) {
    INFO(url);
    CHECK(parse_vat_list(list_of_url(url)).vats[0].url == url);
  }
}

TEST_CASE("vat settings come back byte for byte", "[vat_json]") {
  const auto settings = parse_vat_settings(kSettings);
  CHECK(settings.object_format == ObjectFormat::sha1);
  CHECK(settings.chunker == "vg1:a=16");
  CHECK_FALSE(settings.is_shared);
  auto shared = settings;
  shared.is_shared = true;
  CHECK(parse_vat_settings(formats::to_text(shared)).is_shared);
  CHECK(settings.uuid == "0-1");
  CHECK(to_text(settings) == kSettings);
  CHECK(
      parse_vat_settings(R"({"later":[],"uuid":"u","chunker":"c","object-format":"sha256","vat":1})").uuid ==
      "u");
}

TEST_CASE("malformed vat settings are refused", "[vat_json]") {
  for (const auto* bad :
       {"", "[]", "{}", "null", R"({"vat":"1"})", R"({"vat":1})", R"({"vat":1,"object-format":"sha256"})",
        R"({"vat":1,"object-format":"sha256","chunker":"c"})",
        R"({"vat":1,"object-format":"sha256","uuid":"u"})",
        R"({"vat":1,"object-format":"sha3","chunker":"c","uuid":"u"})",
        R"({"vat":1,"object-format":"sha256","chunker":1,"uuid":"u"})",
        R"({"vat":1,"object-format":"sha256","chunker":"c","uuid":"u","shared":"all"})",
        R"({"vat":1,"object-format":"sha256","chunker":"c","uuid":"u","shared":true})",
        R"({"vat":1,"vat":1,"object-format":"sha256","chunker":"c","uuid":"u"})"}) {
    INFO(bad);
    CHECK(settings_error(bad) == Category::refused);
  }
  CHECK(settings_error(R"({"vat":2})") == Category::no_store);
}

TEST_CASE("damaged vat documents are errors or read as what they say", "[vat_json]") {
  const auto tolerated = [](auto parse, const base::Buffer& bytes) {
    try {
      const auto value = parse(base::as_chars(bytes));
      CHECK(to_text(parse(to_text(value))) == to_text(value));
    } catch (const base::Error& error) {
      const auto category = error.category();
      CHECK((category == Category::usage || category == Category::refused || category == Category::no_store));
    }
  };
  const auto list = [&](const base::Buffer& bytes) { tolerated(parse_vat_list, bytes); };
  const auto settings = [&](const base::Buffer& bytes) { tolerated(parse_vat_settings, bytes); };
  tests::for_each_truncation(tests::to_buffer(kList), list);
  tests::for_each_flip(tests::to_buffer(kList), list);
  tests::for_each_truncation(tests::to_buffer(kSettings), settings);
  tests::for_each_flip(tests::to_buffer(kSettings), settings);
}
