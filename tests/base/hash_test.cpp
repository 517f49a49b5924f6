#include "formats/base/hash.h"

#include <openssl/evp.h>

#include <catch2/catch.hpp>

#include "formats/base/error.h"
#include "formats/base/internal/sha1.h"
#include "tests/support/temp_dir.h"

using base::as_bytes;
using base::ObjectFormat;

namespace {

std::string evp_hex(const char* algorithm, base::Bytes bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_get_digestbyname(algorithm), nullptr);
  return base::to_hex({reinterpret_cast<const std::byte*>(digest), size});
}

base::Buffer framed(base::Bytes content) {
  base::Buffer bytes;
  base::append(bytes, as_bytes("blob " + std::to_string(content.size()) + std::string(1, '\0')));
  base::append(bytes, content);
  return bytes;
}

}  // namespace

TEST_CASE("blob ids are those of git hash-object", "[base]") {
  // Golden values: `git hash-object --stdin` in repositories of both object formats.
  CHECK(base::hash_blob(ObjectFormat::sha1, {}).hex() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  CHECK(base::hash_blob(ObjectFormat::sha1, as_bytes("hello\n")).hex() ==
        "ce013625030ba8dba906f756967f9e9ca394464a");
  CHECK(base::hash_blob(ObjectFormat::sha256, {}).hex() ==
        "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813");
  CHECK(base::hash_blob(ObjectFormat::sha256, as_bytes("hello\n")).hex() ==
        "2cf8d83d9ee29543b34a87727421fdecb7e3f3a183d337639025de576db9ebb4");
}

TEST_CASE("own SHA-1 equals OpenSSL's for every length around block edges", "[base]") {
  const auto data = tests::random_bytes(1000, 7);
  for (std::size_t size = 0; size <= 300; ++size) {
    const base::Bytes content(data.data(), size);
    CHECK(base::hash_blob(ObjectFormat::sha1, content).hex() == evp_hex("SHA1", framed(content)));
    CHECK(base::hash_blob(ObjectFormat::sha256, content).hex() == evp_hex("SHA256", framed(content)));
  }
}

TEST_CASE("a hash does not depend on how the stream is cut up", "[base]") {
  const auto data = tests::random_bytes(5000, 8);
  for (const auto format : {ObjectFormat::sha1, ObjectFormat::sha256}) {
    const auto whole = base::hash_blob(format, data);
    for (const std::size_t step : {1U, 3U, 63U, 64U, 65U, 1000U}) {
      base::ObjectHasher hasher(format);
      hasher.reset(data.size());
      for (std::size_t at = 0; at < data.size(); at += step)
        hasher.update(base::Bytes(data).subspan(at, std::min(step, data.size() - at)));
      CHECK(hasher.finish() == whole);
    }
  }
}

TEST_CASE("content of another size than announced is never named", "[base]") {
  base::ObjectHasher hasher(ObjectFormat::sha256);
  hasher.reset(5);
  hasher.update(as_bytes("hell"));
  CHECK_THROWS_AS(hasher.finish(), base::Error);
  hasher.reset(3);
  hasher.update(as_bytes("hell"));
  CHECK_THROWS_AS(hasher.finish(), base::Error);
}

TEST_CASE("the SHAttered collision is noticed and its common prefix is not", "[base]") {
  // The first 320 bytes of shattered-1.pdf (Stevens et al., 2017): two near-collision blocks after 192 bytes.
  const auto prefix = tests::read_file(tests::golden("shattered-prefix.bin"));
  REQUIRE(prefix.size() == 320);
  const auto found = [](std::string_view bytes) {
    base::internal::Sha1 sha1;
    sha1.update(as_bytes(bytes));
    (void)sha1.finish();
    return sha1.collision_found();
  };
  CHECK(found(prefix));
  CHECK_FALSE(found(std::string_view(prefix).substr(0, 256)));
  CHECK_FALSE(found(std::string_view(prefix).substr(1)));
}

TEST_CASE("message conditions rule out nearly every vector of ordinary data", "[base]") {
  const auto data = tests::random_bytes(64 * 20000, 9);
  std::size_t flagged = 0;
  for (std::size_t at = 0; at < data.size(); at += 64) {
    std::uint32_t w[80];
    for (std::size_t t = 0; t < 80; ++t) {
      w[t] = t < 16 ? std::to_integer<std::uint32_t>(data[at + 4 * t]) << 24 |
                          std::to_integer<std::uint32_t>(data[at + 4 * t + 1]) << 16 |
                          std::to_integer<std::uint32_t>(data[at + 4 * t + 2]) << 8 |
                          std::to_integer<std::uint32_t>(data[at + 4 * t + 3])
                    : 0;
      if (t >= 16) {
        const auto x = w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16];
        w[t] = x << 1 | x >> 31;
      }
    }
    flagged += base::internal::Sha1::suspects(w) != 0;
  }
  CHECK(flagged > 0);  // a test that cannot fail would show as 0
  CHECK(flagged < 20000 * 6 / 100);
}
