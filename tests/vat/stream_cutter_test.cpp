#include "vat/internal/stream_cutter.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "formats/text/recipe.h"
#include "tests/support/temp_dir.h"

using formats::kHoleBlock;
using formats::kMinHole;

namespace {

struct Item {
  bool hole;
  std::uint64_t size;
  friend bool operator==(const Item&, const Item&) = default;
};
std::ostream& operator<<(std::ostream& to, const Item& item) {
  return to << (item.hole ? "hole " : "chunk ") << item.size;
}
using Items = std::vector<Item>;

struct Part {
  bool zero;
  std::size_t size;
};
using Parts = std::vector<Part>;

/// Bytes that are zero nowhere, so that the zero parts are all there is.
base::Buffer build(const Parts& parts) {
  base::Buffer bytes;
  for (const auto& part : parts) {
    auto next = tests::random_bytes(part.size, bytes.size() + 1);
    for (auto& byte : next)
      if (part.zero)
        byte = std::byte{0};
      else if (byte == std::byte{0})
        byte = std::byte{1};
    base::append(bytes, next);
  }
  return bytes;
}

/// The rule of docs/formats/chunker.md, "Holes", word by word and slow.
Items expected(const chunker::Parameters& parameters, const base::Buffer& bytes) {
  const std::size_t blocks = bytes.size() / kHoleBlock;
  const auto is_zero = [&](std::size_t block) {
    const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(block * kHoleBlock);
    return std::all_of(from, from + kHoleBlock, [](std::byte b) { return b == std::byte{0}; });
  };
  Items items;
  const auto chunk = [&](std::size_t from, std::size_t to) {
    while (from < to) {
      const auto size = chunker::find_cut(parameters, base::Bytes(bytes).subspan(from, to - from));
      items.push_back({false, size});
      from += size;
    }
  };
  std::size_t data = 0;
  for (std::size_t i = 0; i < blocks;) {
    std::size_t end = i;
    while (end < blocks && is_zero(end)) ++end;
    if ((end - i) * kHoleBlock >= kMinHole) {
      chunk(data, i * kHoleBlock);
      items.push_back({true, (end - i) * kHoleBlock});
      data = end * kHoleBlock;
    }
    i = std::max(end, i + 1);
  }
  chunk(data, bytes.size());
  return items;
}

class Cut {
 public:
  Cut(const chunker::Parameters& parameters, const base::Buffer& bytes)
      : bytes_(bytes),
        cutter(
            parameters,
            [this](base::Bytes chunk) {
              REQUIRE(chunk.size() <= bytes_.size() - offset_);
              REQUIRE(std::equal(chunk.begin(), chunk.end(),
                                 bytes_.begin() + static_cast<std::ptrdiff_t>(offset_)));
              add(false, chunk.size());
            },
            [this](std::uint64_t size) { add(true, size); }) {}
  Items items;

 private:
  void add(bool hole, std::uint64_t size) {
    items.push_back({hole, size});
    offset_ += size;
  }
  const base::Buffer& bytes_;
  std::uint64_t offset_ = 0;

 public:
  vat::internal::StreamCutter cutter;
};

constexpr std::size_t kAtOnce = 0;

Items cut(const chunker::Parameters& parameters, const base::Buffer& bytes, std::size_t feed_size) {
  Cut run(parameters, bytes);
  if (feed_size == kAtOnce) {
    run.cutter.feed_all(bytes);
    return run.items;
  }
  for (base::Bytes rest(bytes); !rest.empty();) {
    const auto count = std::min(feed_size, rest.size());
    run.cutter.feed(rest.subspan(0, count));
    rest = rest.subspan(count);
  }
  run.cutter.finish();
  return run.items;
}

constexpr std::size_t kKiB = 1024;

const std::vector<Parts> kShapes{
    {},
    {{false, 1}},
    {{true, 1}},
    {{true, 4096}},
    {{true, 60 * kKiB}},
    {{true, 64 * kKiB - 1}},
    {{true, 64 * kKiB}},
    {{true, 64 * kKiB + 1}},
    {{true, 68 * kKiB}},
    {{true, 200 * kKiB}},
    {{true, 64 * kKiB}, {false, 1}},
    {{true, 64 * kKiB}, {false, 4096}, {true, 64 * kKiB}},
    {{true, 64 * kKiB + 5}, {false, 70 * kKiB}},
    {{false, 4096}, {true, 60 * kKiB}, {false, 4096}},
    {{false, 4096}, {true, 64 * kKiB}, {false, 4096}},
    {{false, 4096}, {true, 64 * kKiB}},
    {{false, 4096}, {true, 64 * kKiB + 100}},
    {{false, 4095}, {true, 64 * kKiB}, {false, 9}},      // 60 KiB of whole blocks
    {{false, 4095}, {true, 64 * kKiB + 1}, {false, 9}},  // just enough
    {{false, 1}, {true, 68 * kKiB - 1}, {false, 1}},
    {{false, 1}, {true, 68 * kKiB - 2}, {false, 1}},
    {{false, 33 * kKiB}, {true, 100 * kKiB}, {false, 90 * kKiB}, {true, 30 * kKiB}, {false, 5}},
    {{false, 40 * kKiB},
     {true, 60 * kKiB},
     {false, 4096},
     {true, 60 * kKiB},
     {false, 4096},
     {true, 64 * kKiB}},
    {{false, 256 * kKiB + 77}},
};

}  // namespace

TEST_CASE("holes are the maximal aligned zero runs of 64 KiB or more", "[vat][cutter]") {
  const auto parameters = chunker::make_parameters(GENERATE(13, 14, 16));
  for (std::size_t shape = 0; shape < kShapes.size(); ++shape) {
    const auto bytes = build(kShapes[shape]);
    const auto wanted = expected(parameters, bytes);
    INFO("shape " << shape << ", " << parameters.id());
    std::uint64_t sum = 0;
    for (const auto& item : wanted) sum += item.size;
    REQUIRE(sum == bytes.size());
    for (const std::size_t feed : {kAtOnce, std::size_t{1}, std::size_t{4095}, std::size_t{4096},
                                   std::size_t{4097}, 64 * kKiB, 65 * kKiB + 1, std::size_t{1} << 30}) {
      INFO("fed " << feed << " bytes at a time");
      CHECK(cut(parameters, bytes, feed) == wanted);
    }
  }
}

TEST_CASE("fixed golden cuts around a hole", "[vat][cutter]") {
  const auto parameters = chunker::make_parameters(16);
  CHECK(cut(parameters, build({{true, 64 * kKiB}}), 999) == Items{{true, 65536}});
  CHECK(cut(parameters, build({{true, 60 * kKiB}}), 999) == Items{{false, 61440}});
  CHECK(cut(parameters, build({{false, 10}, {true, 72 * kKiB}, {false, 10}}), 999) ==
        Items{{false, 4096}, {true, 17 * 4096}, {false, 20 + 72 * kKiB - 18 * 4096}});
  CHECK(cut(parameters, {}, 1).empty());
}

TEST_CASE("random streams of zero and other runs are cut alike however they are fed", "[vat][cutter]") {
  const auto parameters = chunker::make_parameters(13);
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    const auto random = tests::random_bytes(128, seed);
    const auto number = [&](std::size_t i) { return std::to_integer<std::size_t>(random[i]); };
    Parts parts;
    for (std::size_t i = 0; i < 2 + number(0) % 10; ++i)
      parts.push_back({number(i * 4 + 1) % 2 == 0,
                       number(i * 4 + 2) % 26 * 4096 + (number(i * 4 + 3) % 3 == 0 ? number(i * 4 + 4) : 0)});
    const auto bytes = build(parts);
    const auto wanted = expected(parameters, bytes);
    CHECK(cut(parameters, bytes, 1 + number(100) * 97) == wanted);
    CHECK(cut(parameters, bytes, std::size_t{1} << 30) == wanted);

    Cut run(parameters, bytes);
    std::size_t at = 0;
    for (const auto& part : parts) {
      if (part.zero)
        run.cutter.feed_zeros(part.size);
      else
        run.cutter.feed(base::Bytes(bytes).subspan(at, part.size));
      at += part.size;
    }
    run.cutter.finish();
    CHECK(run.items == wanted);
  }
}

TEST_CASE("zeros given by number are those given as bytes, in any mixture", "[vat][cutter]") {
  const auto parameters = chunker::make_parameters(13);
  const auto bytes = build({{false, 5000}, {true, 200 * kKiB + 3}, {false, 7000}, {true, 70 * kKiB}});
  const auto wanted = expected(parameters, bytes);
  for (const std::size_t step : {std::size_t{1}, std::size_t{100}, std::size_t{4095}, std::size_t{4096},
                                 std::size_t{8193}, 64 * kKiB, 90 * kKiB}) {
    INFO("step " << step);
    Cut run(parameters, bytes);
    bool by_number = false;
    for (std::size_t at = 0; at < bytes.size();) {
      std::size_t zeros = 0;
      while (zeros < step && at + zeros < bytes.size() && bytes[at + zeros] == std::byte{0}) ++zeros;
      by_number = !by_number;
      if (zeros > 0 && by_number) {
        run.cutter.feed_zeros(zeros);
        at += zeros;
      } else {
        const auto count = std::min(step, bytes.size() - at);
        run.cutter.feed(base::Bytes(bytes).subspan(at, count));
        at += count;
      }
    }
    run.cutter.finish();
    CHECK(run.items == wanted);
  }
}

TEST_CASE("an endless hole costs nothing and its size is right", "[vat][cutter]") {
  const auto parameters = chunker::make_parameters(16);
  base::Buffer none;
  Items items;
  vat::internal::StreamCutter cutter(
      parameters,
      [&](base::Bytes chunk) {
        items.push_back({false, chunk.size()});
      },
      [&](std::uint64_t size) {
        items.push_back({true, size});
      });
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;
  cutter.feed_zeros(kHuge + 7);
  cutter.feed_zeros(0);
  cutter.finish();
  CHECK(items == Items{{true, kHuge}, {false, 7}});
}
