#include "chunker/chunker.h"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "chunker/internal/scan.h"
#include "formats/base/simd.h"
#include "tests/support/temp_dir.h"

using chunker::internal::find_cut_scalar;

namespace {

std::vector<std::size_t> cut_all(chunker::internal::FindCut find, const chunker::Parameters& parameters,
                                 base::Bytes data) {
  std::vector<std::size_t> sizes;
  while (!data.empty()) {
    sizes.push_back(find(parameters, data.subspan(0, std::min(data.size(), parameters.max_size))));
    data = data.subspan(sizes.back());
  }
  return sizes;
}

std::uint64_t fold(const std::vector<std::size_t>& sizes) {
  std::uint64_t f = 0xcbf29ce484222325;
  for (const auto size : sizes) f = (f ^ size) * 0x100000001b3;
  return f;
}

std::vector<std::pair<const char*, chunker::internal::FindCut>> implementations() {
  std::vector<std::pair<const char*, chunker::internal::FindCut>> all{
      {"scalar", find_cut_scalar},
      {"portable", chunker::internal::find_cut_portable},
      {"chosen", chunker::find_cut}};
  if (base::simd() >= base::Simd::avx2)
    all.emplace_back("avx2", chunker::internal::find_avx2());
  else
    WARN("SKIPPED: this machine has no AVX2");
  if (base::simd() >= base::Simd::avx512)
    all.emplace_back("avx512", chunker::internal::find_avx512());
  else
    WARN("SKIPPED: this machine has no AVX-512");
  return all;
}

/// The profile of 8 KiB chunks, and one like it in which every candidate is a cut, so that none is missed
/// unseen.
std::vector<chunker::Parameters> profiles() {
  auto eager = chunker::make_parameters(13);
  eager.rare_below = eager.often_below = UINT64_MAX;
  return {chunker::make_parameters(13), eager};
}

/// Random bytes between two unreadable pages: a read before or behind them crashes.
class Walled {
 public:
  explicit Walled(std::size_t pages, std::uint64_t seed) : size_(pages * page()) {
    void* const all = ::mmap(nullptr, size_ + 2 * page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(all != MAP_FAILED);
    bytes_ = static_cast<std::byte*>(all) + page();
    REQUIRE(::mprotect(bytes_, size_, PROT_READ | PROT_WRITE) == 0);
    const auto random = tests::random_bytes(size_, seed);
    std::copy(random.begin(), random.end(), bytes_);
  }
  ~Walled() { ::munmap(bytes_ - page(), size_ + 2 * page()); }
  Walled(const Walled&) = delete;
  Walled& operator=(const Walled&) = delete;

  [[nodiscard]] base::Bytes first(std::size_t count) const { return {bytes_, count}; }
  [[nodiscard]] base::Bytes last(std::size_t count) const { return {bytes_ + size_ - count, count}; }

 private:
  static std::size_t page() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }
  std::size_t size_;
  std::byte* bytes_;
};

}  // namespace

TEST_CASE("cut points are those of the frozen definition", "[chunker]") {
  struct Golden {
    int exponent;
    std::vector<std::size_t> first;
    std::size_t count;
    std::uint64_t folded;
  };
  const Golden goldens[] = {
      {13, {12823, 9109, 7083, 2576, 9302, 7211, 5880, 11804}, 133, 0x1ecce5346320bb31},
      {14, {14392, 14623, 17663, 7306, 20842, 16637, 13968, 14691}, 64, 0xbda0d269d14798c7},
      {15, {29015, 36773, 26075, 28259, 28127, 16315, 35115, 28321}, 33, 0x2ed0442910ba1b11},
      {16, {53984, 37879, 72701, 56870, 96870, 49976, 63209, 55741}, 17, 0xffc02384ca1b4c19},
  };
  const auto data = tests::random_bytes(1 << 20, 1);
  for (const auto& [name, find] : implementations()) {
    for (const auto& golden : goldens) {
      INFO(name << " a=" << golden.exponent);
      const auto sizes = cut_all(find, chunker::make_parameters(golden.exponent), data);
      CHECK(std::vector<std::size_t>(sizes.begin(), sizes.begin() + 8) == golden.first);
      CHECK(sizes.size() == golden.count);
      CHECK(fold(sizes) == golden.folded);
    }
  }
}

TEST_CASE("both hashes are those of the frozen definition", "[chunker]") {
  std::byte ramp[32];
  for (std::size_t i = 0; i < 32; ++i) ramp[i] = static_cast<std::byte>(i);
  CHECK(chunker::internal::strong_hash(ramp + 31) == 0xbeff8352fbb6b090);
  CHECK(chunker::internal::prefilter_hash(ramp + 15) == 0x2f);
  CHECK(chunker::internal::prefilter_hash(ramp + 31) == 0x52);
}

TEST_CASE("all code cuts as the scalar code does", "[chunker]") {
  std::vector<base::Buffer> inputs{tests::random_bytes(300000, 2), base::Buffer(100000)};
  for (std::size_t period = 1; period <= 40; ++period) {
    auto data = tests::random_bytes(40000, period);
    for (std::size_t i = period; i < data.size(); ++i) data[i] = data[i - period];
    inputs.push_back(std::move(data));
  }
  base::Buffer text;
  for (int i = 0; text.size() < 200000; ++i)
    base::append(text, base::as_bytes("line " + std::to_string(i * i) + "\n"));
  inputs.push_back(std::move(text));
  const auto all = implementations();
  for (const auto& parameters : profiles())
    for (std::size_t i = 0; i < inputs.size(); ++i)
      for (const std::size_t start : {0U, 1U, 37U}) {
        const auto data = base::Bytes(inputs[i]).subspan(start);
        const auto expected = cut_all(find_cut_scalar, parameters, data);
        for (const auto& [name, find] : all) {
          INFO(name << " input " << i << " from " << start);
          CHECK(cut_all(find, parameters, data) == expected);
        }
      }
}

TEST_CASE("every length cuts alike, and nothing outside it is read", "[chunker]") {
  const auto all = implementations();
  for (const auto& parameters : profiles()) {
    const Walled walled(16, 3);
    const auto check = [&](base::Bytes data) {
      const auto expected = find_cut_scalar(parameters, data);
      for (const auto& [name, find] : all)
        if (find(parameters, data) != expected)
          FAIL(name << " differs at size " << data.size() << ", start " << data.data());
    };
    for (std::size_t size = 1; size <= 3 * parameters.min_size; ++size) {
      check(walled.first(size));
      check(walled.last(size));  // starts at every alignment
    }
    for (std::size_t more = 0; more < 300; ++more) {
      check(walled.first(parameters.max_size + more));
      check(walled.last(parameters.max_size + more));
    }
  }
}

TEST_CASE("an insertion moves cut points only near it", "[chunker]") {
  const auto parameters = chunker::make_parameters(13);
  auto data = tests::random_bytes(1 << 20, 4);
  const auto before = cut_all(chunker::find_cut, parameters, data);
  data.insert(data.begin() + 500000, 100, std::byte{42});
  const auto after = cut_all(chunker::find_cut, parameters, data);
  const std::size_t kept = std::min(before.size(), after.size());
  std::size_t tail = 0;
  while (tail < kept && before[before.size() - 1 - tail] == after[after.size() - 1 - tail]) ++tail;
  std::size_t head = 0;
  while (head < kept && before[head] == after[head]) ++head;
  CHECK(head + tail + 4 >= before.size());
}

TEST_CASE("a profile id names its parameters and nothing else does", "[chunker]") {
  CHECK(chunker::find_parameters("vg1:a=16") == chunker::make_parameters(16));
  CHECK(chunker::make_parameters(14).id() == "vg1:a=14");
  for (const auto* bad : {"", "vg1", "vg1:a=", "vg1:a=12", "vg1:a=21", "vg1:a=016", "vg2:a=16", "vg1:a=16 "})
    CHECK_FALSE(chunker::find_parameters(bad));
}
