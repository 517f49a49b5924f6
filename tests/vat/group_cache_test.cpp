#include "vat/internal/group_cache.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <latch>
#include <thread>
#include <vector>

#include "formats/base/error.h"

using vat::internal::GroupCache;

namespace {

GroupCache::Group group_of(std::size_t size) {
  formats::DecodedGroup group;
  group.content.resize(size);
  return std::make_shared<const formats::DecodedGroup>(std::move(group));
}

/// Asks for `key` and says whether it had to be decoded.
bool decodes(GroupCache& cache, const GroupCache::Key& key, std::size_t size) {
  bool decoded = false;
  const auto group = cache.find_or(key, [&] {
    decoded = true;
    return group_of(size);
  });
  CHECK(group->content.size() == size);
  return decoded;
}

}  // namespace

TEST_CASE("concurrent readers of a group decode it once", "[vat][group_cache]") {
  GroupCache cache(std::size_t{1} << 20);
  constexpr int kReaders = 8;
  for (std::uint64_t round = 0; round < 50; ++round) {
    std::atomic<int> decoded = 0, right = 0;
    std::latch start(kReaders);
    {
      std::vector<std::jthread> readers;
      for (int i = 0; i < kReaders; ++i)
        readers.emplace_back([&] {
          start.arrive_and_wait();
          const auto group = cache.find_or({1, round}, [&] {
            ++decoded;
            std::this_thread::yield();
            return group_of(100);
          });
          if (group->content.size() == 100) ++right;
        });
    }
    CHECK(decoded == 1);
    CHECK(right == kReaders);
  }
}

TEST_CASE("what decoding throws reaches every waiting reader, and the next tries again",
          "[vat][group_cache]") {
  GroupCache cache(1000);
  constexpr int kReaders = 8;
  std::atomic<int> inside = 0, failed = 0, decoded = 0;
  {
    std::vector<std::jthread> readers;
    for (int i = 0; i < kReaders; ++i)
      readers.emplace_back([&] {
        ++inside;
        try {
          (void)cache.find_or({1, 1}, [&]() -> GroupCache::Group {
            ++decoded;
            while (inside < kReaders) std::this_thread::yield();
            throw base::Error(base::Category::corrupt, "bad group");
          });
        } catch (const base::Error&) {  // shared by all: looking into it is more than tsan can follow
          ++failed;
        }
      });
  }
  CHECK(failed == kReaders);
  CHECK(decoded >= 1);
  CHECK(decodes(cache, {1, 1}, 10));
  CHECK_FALSE(decodes(cache, {1, 1}, 10));
}

TEST_CASE("the least recently used groups go when the budget is spent", "[vat][group_cache]") {
  GroupCache cache(300);
  CHECK(decodes(cache, {1, 0}, 100));
  CHECK(decodes(cache, {1, 1}, 100));
  CHECK(decodes(cache, {2, 0}, 100));
  CHECK_FALSE(decodes(cache, {1, 0}, 100));  // now {1, 1} is the oldest
  CHECK(decodes(cache, {2, 1}, 100));
  CHECK_FALSE(decodes(cache, {1, 0}, 100));
  CHECK_FALSE(decodes(cache, {2, 0}, 100));
  CHECK_FALSE(decodes(cache, {2, 1}, 100));
  CHECK(decodes(cache, {1, 1}, 100));
}

TEST_CASE("a group beyond the budget is handed out and does not stay for long", "[vat][group_cache]") {
  GroupCache cache(300);
  CHECK(decodes(cache, {1, 0}, 100));
  CHECK(decodes(cache, {1, 1}, 5000));
  CHECK(decodes(cache, {1, 2}, 10));
  CHECK(decodes(cache, {1, 1}, 5000));
  CHECK(decodes(cache, {1, 0}, 100));
  CHECK(decodes(cache, {1, 3}, 0));
  CHECK_FALSE(decodes(cache, {1, 3}, 0));
}

TEST_CASE("many threads on few groups under a small budget see the right group", "[vat][group_cache]") {
  GroupCache cache(500);
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> readers;
    for (unsigned thread = 0; thread < 8; ++thread)
      readers.emplace_back([&, thread] {
        for (unsigned i = 0; i < 2000; ++i) {
          const std::uint64_t key = (i * 7 + thread * 3) % 13;
          try {
            const auto group = cache.find_or({0, key}, [&] {
              if (key == 5 && i % 2 == 0) throw base::Error(base::Category::corrupt, "now and then");
              return group_of(100 + key);
            });
            if (group->content.size() != 100 + key) ++wrong;
          } catch (const base::Error&) {
            if (key != 5) ++wrong;
          }
        }
      });
  }
  CHECK(wrong == 0);
}
