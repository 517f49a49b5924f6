#include "formats/base/numbers.h"

#include <catch2/catch.hpp>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/object_id.h"

TEST_CASE("a number has one spelling", "[base]") {
  CHECK(base::parse_decimal("0") == 0U);
  CHECK(base::parse_decimal("18446744073709551615") == UINT64_MAX);
  for (const auto* bad : {"", "00", "01", "+1", "-1", " 1", "1 ", "18446744073709551616", "0x1", "1e3"})
    CHECK_FALSE(base::parse_decimal(bad));
  CHECK(base::parse_octal("7777") == 07777U);
  CHECK_FALSE(base::parse_octal("8"));
  CHECK(base::parse_signed("-9223372036854775808") == INT64_MIN);
  for (const auto* bad : {"", "-", "-0", "--1", "+1", "-01"}) CHECK_FALSE(base::parse_signed(bad));
}

TEST_CASE("a varint has one spelling", "[base]") {
  for (const std::uint64_t value : {0ULL, 1ULL, 127ULL, 128ULL, 300ULL, 1ULL << 35, ~0ULL}) {
    base::Buffer bytes;
    base::append_varint(bytes, value);
    base::Bytes rest(bytes);
    CHECK(base::take_varint(rest) == value);
    CHECK(rest.empty());
    for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
      base::Bytes truncated(bytes.data(), cut);
      CHECK_FALSE(base::take_varint(truncated));
    }
  }
  const std::byte padded[] = {std::byte{0x80}, std::byte{0}};
  base::Bytes rest(padded);
  CHECK_FALSE(base::take_varint(rest));
}

TEST_CASE("an id of the other object format is refused with a hint", "[base]") {
  const std::string sha1(40, 'a');
  CHECK_FALSE(base::ObjectId::parse(base::ObjectFormat::sha256, sha1));
  try {
    (void)base::ObjectId::require(base::ObjectFormat::sha256, sha1);
    FAIL("accepted");
  } catch (const base::Error& error) {
    CHECK(error.category() == base::Category::refused);
    CHECK_FALSE(error.hint().empty());
  }
  CHECK_THROWS_AS(base::ObjectId::require(base::ObjectFormat::sha1, std::string(40, 'A')), base::Error);
}
