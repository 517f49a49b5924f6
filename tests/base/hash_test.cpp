#include "formats/base/hash.h"

#include <openssl/evp.h>

#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <vector>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/internal/lanes.h"
#include "formats/base/internal/sha1.h"
#include "formats/base/simd.h"
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

/// The 80 words of a block.
std::array<std::uint32_t, 80> expand(const std::byte* block) {
  std::array<std::uint32_t, 80> w;
  for (std::size_t t = 0; t < 80; ++t)
    w[t] = t < 16 ? __builtin_bswap32(base::load_le<std::uint32_t>(block + 4 * t))
                  : std::rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
  return w;
}

constexpr std::array<std::uint32_t, 5> kSha1Initial{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476,
                                                    0xc3d2e1f0};
constexpr std::array<std::uint32_t, 8> kSha256Initial{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/// Each kind of lanes this machine has.
std::vector<const base::internal::Lanes*> all_lanes() {
  std::vector<const base::internal::Lanes*> all;
  if (base::simd() >= base::Simd::avx2) all.push_back(base::internal::find_avx2_lanes());
  if (base::simd() >= base::Simd::avx512) all.push_back(base::internal::find_avx512_lanes());
  return all;
}

/// `content` as both hashes pad it: 0x80, zeros and the size in bits end a block.
base::Buffer padded(base::Bytes content) {
  base::Buffer bytes(content.begin(), content.end());
  bytes.push_back(std::byte{0x80});
  while (bytes.size() % 64 != 56) bytes.push_back({});
  for (int shift = 56; shift >= 0; shift -= 8)
    bytes.push_back(static_cast<std::byte>(std::uint64_t{content.size()} * 8 >> shift));
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
    const auto w = expand(&data[at]);
    flagged += base::internal::Sha1::suspects(w.data()) != 0;
  }
  CHECK(flagged > 0);  // a test that cannot fail would show as 0
  CHECK(flagged < 20000 * 6 / 100);
}

TEST_CASE("many blobs at once have the names they have one by one", "[base]") {
  const auto data = tests::random_bytes(400'000, 9);
  const auto format = GENERATE(ObjectFormat::sha1, ObjectFormat::sha256);
  const auto check = [&](const std::vector<base::Bytes>& contents) {
    std::vector<base::ObjectId> ids(contents.size());
    base::hash_blobs(format, contents, ids);
    for (std::size_t i = 0; i < contents.size(); ++i) {
      INFO(i << " of " << contents.size() << ": " << contents[i].size() << " bytes");
      CHECK(ids[i].hex() == evp_hex(format == ObjectFormat::sha1 ? "SHA1" : "SHA256", framed(contents[i])));
    }
  };
  check({});
  std::vector<base::Bytes> contents;
  for (std::size_t size = 0; size <= 300; ++size) contents.push_back(base::Bytes(data).subspan(size, size));
  check(contents);
  for (const std::size_t count : {1U, 2U, 7U, 8U, 9U, 15U, 16U, 17U, 40U}) {
    contents.clear();  // all alike, and all different
    for (std::size_t i = 0; i < count; ++i) contents.push_back(base::Bytes(data).subspan(i, 1000));
    check(contents);
    contents.clear();
    for (std::size_t i = 0; i < count; ++i) contents.push_back(base::Bytes(data).subspan(i, i * i * 97));
    check(contents);
  }
  contents.assign(20, base::Bytes(data).subspan(0, 100));
  contents[11] = data;  // one that is longer than all others together
  check(contents);
}

TEST_CASE("each kind of lanes hashes as OpenSSL does", "[base]") {
  const auto kinds = all_lanes();
  if (kinds.empty()) return;
  const auto* lanes = GENERATE_COPY(from_range(kinds));
  const auto data = tests::random_bytes(10'000, 11);
  for (const std::size_t count : {1U, 2U, 5U, 40U}) {
    std::vector<base::Bytes> contents;  // of other sizes, but as many blocks
    std::vector<base::Buffer> messages;
    std::array<const std::byte*, base::internal::kMaxLanes> blocks;
    for (std::size_t i = 0; i < lanes->lanes; ++i) {
      contents.push_back(base::Bytes(data).subspan(i, 64 * count - 9 - i));
      messages.push_back(padded(contents.back()));
      blocks[i] = messages.back().data();
    }
    const auto check = [&](const char* algorithm, auto initial, const auto& hash) {
      std::vector<std::uint32_t> states(initial.size() * lanes->lanes);
      for (std::size_t j = 0; j < states.size(); ++j) states[j] = initial[j / lanes->lanes];
      const std::size_t before = count / 2;  // in two calls, as a lane that ends a segment needs
      auto rest = blocks;
      for (auto& at : rest) at += 64 * before;
      if (before > 0) hash(states.data(), blocks.data(), before);
      hash(states.data(), rest.data(), count - before);
      for (std::size_t i = 0; i < lanes->lanes; ++i) {
        base::Buffer digest;
        for (std::size_t j = 0; j < initial.size(); ++j)
          for (int shift = 24; shift >= 0; shift -= 8)
            digest.push_back(static_cast<std::byte>(states[j * lanes->lanes + i] >> shift));
        INFO(algorithm << " in lane " << i << " of " << lanes->lanes << ", " << count << " blocks");
        CHECK(base::to_hex(digest) == evp_hex(algorithm, contents[i]));
      }
    };
    check("SHA256", kSha256Initial, lanes->sha256);
    check("SHA1", kSha1Initial, [&](std::uint32_t* states, const std::byte* const* from, std::size_t n) {
      lanes->sha1(
          states, from, n, [](void*, const base::internal::Suspect&) {}, nullptr);
    });
  }
}

TEST_CASE("each kind of lanes sees what the scalar code sees", "[base]") {
  const auto kinds = all_lanes();
  if (kinds.empty()) return;
  const auto* lanes = GENERATE_COPY(from_range(kinds));
  auto data = tests::random_bytes(64 * 16 * 100, 10);
  for (std::size_t at = 0; at < data.size(); at += 64 * lanes->lanes) {
    std::array<std::uint32_t, base::internal::kMaxLanes> masks;
    lanes->sha1_suspects(data.data() + at, masks.data());
    for (std::size_t i = 0; i < lanes->lanes; ++i) {
      REQUIRE(masks[i] == base::internal::Sha1::suspects(expand(&data[at + 64 * i]).data()));
    }
  }
  // The SHAttered blocks in one lane, ordinary ones in the others.
  const auto prefix = tests::read_file(tests::golden("shattered-prefix.bin"));
  for (std::size_t lane = 0; lane < lanes->lanes; ++lane) {
    std::array<std::uint32_t, 5 * base::internal::kMaxLanes> states;
    std::array<const std::byte*, base::internal::kMaxLanes> blocks;
    for (std::size_t i = 0; i < lanes->lanes; ++i) {
      for (std::size_t j = 0; j < 5; ++j) states[j * lanes->lanes + i] = kSha1Initial[j];
      blocks[i] = i == lane ? base::as_bytes(prefix).data() : data.data() + 1000 * i;
    }
    std::vector<std::size_t> attacked;
    struct Context {
      const base::internal::Lanes& lanes;
      std::vector<std::size_t>& attacked;
    } context{*lanes, attacked};
    lanes->sha1(
        states.data(), blocks.data(), 5,
        [](void* to, const base::internal::Suspect& suspect) {
          const auto& [all, found] = *static_cast<Context*>(to);
          base::internal::Sha1::State before;
          std::copy_n(suspect.state, before.size(), before.begin());
          const bool attack = base::internal::Sha1::completes_attack(before, suspect.block, suspect.mask);
          if (attack) found.push_back(suspect.lane);
          // The same by lanes, one vector at a time.
          bool attack_by_lanes = false;
          for (unsigned vector = 0; vector < 32; ++vector) {
            if ((suspect.mask >> vector & 1) == 0) continue;
            std::array<std::uint32_t, 5 * base::internal::kMaxLanes> from;
            std::array<const std::byte*, base::internal::kMaxLanes> same;
            std::array<std::uint32_t, base::internal::kMaxLanes> vectors, differs;
            for (std::size_t i = 0; i < all.lanes; ++i) {
              for (std::size_t j = 0; j < 5; ++j) from[j * all.lanes + i] = before[j];
              same[i] = suspect.block;
              vectors[i] = vector;
            }
            all.sha1_check(base::internal::Sha1::meeting_step(vector), from.data(), same.data(),
                           vectors.data(), differs.data());
            attack_by_lanes = attack_by_lanes || differs[all.lanes - 1] == 0;
          }
          CHECK(attack_by_lanes == attack);
        },
        &context);
    CHECK(attacked == std::vector<std::size_t>{lane});
  }
}
