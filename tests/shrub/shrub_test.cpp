// Where an entry may lie, and what it may be called.
#include "shrub/shrub.h"

#include <catch2/catch.hpp>

#include "formats/base/file.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

using base::Category;
using shrub::Shrub;

TEST_CASE("paths of a shrub lie in it", "[shrub]") {
  const tests::TempDir dir;
  base::make_directories(dir / "s/sub");
  const auto made = Shrub::create(dir / "s", {});
  CHECK(made.relative(dir / "s") == ".");
  CHECK(made.relative(dir / "s/sub/x.vref") == "sub/x.vref");
  for (const auto* outside : {"", "other", "sx", "s/../other"}) {
    INFO(outside);
    CHECK(tests::category_of([&] { (void)made.relative(dir / outside); }) == Category::refused);
  }
}

TEST_CASE("an entry has a name that a wedge can have", "[shrub]") {
  const tests::TempDir dir;
  const auto made = Shrub::create(dir / "s", {});
  CHECK_FALSE(made.find_vref("a/b"));
  for (const auto& bad :
       {std::string(), std::string("a//b"), std::string("a/"), std::string("/a"), std::string(".a"),
        std::string("a/.b"), std::string("a/../b"), std::string("a\0b", 3), std::string(300, 'a')}) {
    INFO(bad);
    CHECK(tests::category_of([&] { (void)made.find_vref(bad); }) == Category::refused);
  }
}
