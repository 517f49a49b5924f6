#include "vat/repack.h"

#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "formats/base/error.h"
#include "formats/base/hash.h"
#include "tests/vat/test_vat.h"
#include "vat/maps.h"
#include "vat/verify.h"

namespace {

using tests::TestVat;

constexpr std::int64_t kDay = 24 * 3600;
const std::int64_t kToday = std::time(nullptr);  ///< packs are made now

/// Compressible, so that a level shows.
base::Buffer text(unsigned seed, std::size_t size = 3000) {
  base::Buffer bytes = tests::random_bytes(size, seed);
  for (auto& byte : bytes) byte &= std::byte{0x0f};
  return bytes;
}

std::vector<base::Buffer> add_packs(TestVat& store, unsigned count, unsigned first = 0) {
  std::vector<base::Buffer> blobs;
  for (unsigned i = 0; i < count; ++i) {
    blobs.push_back(text(first + i));
    (void)store.add_pack({blobs.back()});
  }
  return blobs;
}

vat::RepackSummary repack(TestVat& store, std::int64_t now, bool automatic = true,
                          std::int64_t grace = 14 * kDay) {
  vat::RepackOptions options;
  options.automatic = automatic;
  options.now = kToday + now;
  options.grace = grace;
  return vat::repack(*store, options);
}

std::size_t damaged(TestVat& store) {
  return vat::verify(*store, {}, [](const vat::Damage&) {}).damaged;
}

void check(TestVat& store, const std::vector<base::Buffer>& blobs) {
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
}

}  // namespace

TEST_CASE("small packs become one, and go when nobody can be after them any more", "[vat][repack]") {
  TestVat store;
  const auto blobs = add_packs(store, 12);
  const auto before = store.packs();
  const auto merged = repack(store, 100 * kDay);
  CHECK(merged.packs == 12);
  CHECK(merged.new_packs == 1);
  CHECK(merged.kept == 0);
  CHECK(merged.removed_packs == 0);
  CHECK(merged.stored_size < merged.size);
  CHECK(store.packs().size() == 13);

  CHECK(repack(store, 114 * kDay - 1).removed_packs == 0);
  CHECK(repack(store, 114 * kDay - 1).packs == 0);  // what is condemned is not written again
  const auto removed = repack(store, 114 * kDay);
  CHECK(removed.removed_packs == 12);
  CHECK(removed.removed_size == merged.size);
  CHECK(store.packs().size() == 1);
  for (const auto& name : before) CHECK(store.packs()[0] != name);
  check(store, blobs);
  CHECK(damaged(store) == 0);
  CHECK(
      base::list_directory(base::open_directory(AT_FDCWD, store.path() + "/cache/condemned").get()).empty());
  store.reopen();
  check(store, blobs);
  CHECK(tests::read_small_file(store.path() + "/cache/packs").size() == 65);
}

TEST_CASE("a few packs, and a large one, are left alone by --auto", "[vat][repack]") {
  TestVat store;
  auto blobs = add_packs(store, 9);
  CHECK(repack(store, kDay).packs == 0);
  blobs.push_back(tests::random_bytes(1 << 20, 99));
  const auto large = store.add_pack({blobs.back()});
  CHECK(repack(store, kDay).packs == 0);
  const auto more = add_packs(store, 3, 50);
  const auto merged = repack(store, kDay, true, 0);
  CHECK(merged.packs == 12);
  CHECK(merged.removed_packs == 12);
  const auto packs = store.packs();
  CHECK(std::count(packs.begin(), packs.end(), large) == 1);
  CHECK(packs.size() == 2);
  check(store, blobs);
  check(store, more);
}

TEST_CASE("all packs are rewritten without --auto, each blob once, tighter if a level says so",
          "[vat][repack]") {
  TestVat store;
  const auto blob = text(1, 300000);
  const auto other = text(2, 300000);
  (void)store.add_pack({blob});
  store.close();
  TestVat second;
  (void)second.add_pack({blob, other});  // the first again
  for (const auto& name : second.packs())
    tests::write_file(store.pack_path(name), base::as_bytes(tests::read_small_file(second.pack_path(name))));
  store.reopen();
  vat::RepackOptions options;
  options.now = kToday + kDay;
  options.grace = 0;
  options.level = 19;
  const auto summary = vat::repack(*store, options);
  CHECK(summary.packs == 2);
  CHECK(summary.new_packs == 1);
  CHECK(summary.removed_packs == 2);
  CHECK(summary.stored_size < summary.size * 2 / 3);
  check(store, {blob, other});
  CHECK(damaged(store) == 0);
  options.level.reset();
  CHECK(vat::repack(*store, options).packs == 0);
  check(store, {blob, other});
  CHECK(store.packs().size() == 1);
}

TEST_CASE("what lies in condemned packs alone is written again, and a pack that is needed loses its mark",
          "[vat][repack]") {
  TestVat store;
  const auto blobs = add_packs(store, 12);
  REQUIRE(repack(store, kDay).packs == 12);
  const auto more = add_packs(store, 3, 30);
  const auto second = repack(store, kDay + 1, false);  // within the grace period: 1 + 3 packs
  CHECK(second.packs == 4);
  CHECK(second.new_packs == 1);
  CHECK(second.kept == 0);
  const auto last = repack(store, 100 * kDay, false);
  CHECK(last.removed_packs == 16);
  CHECK(last.packs == 0);  // one pack needs no merging
  CHECK(store.packs().size() == 1);
  check(store, blobs);
  check(store, more);
  CHECK(damaged(store) == 0);
}

TEST_CASE("a mark of a wrong clock, or one that says nothing, counts from when it is read", "[vat][repack]") {
  TestVat store;
  (void)add_packs(store, 12);
  REQUIRE(repack(store, kDay).packs == 12);
  const auto marks = store.path() + "/cache/condemned/";
  unsigned number = 0;
  for (const auto& name : base::list_directory(base::open_directory(AT_FDCWD, marks).get())) {
    base::remove_tree(AT_FDCWD, marks + name);
    // The last two were made when the clock was wrong: before there were such marks, and before the pack was
    // made.
    const std::string bad[] = {"",
                               ".",
                               ".x",
                               ".18446744073709551615",
                               ".9223372036854775807",
                               ".-5",
                               ".5.ded",
                               ".5.dead.dead",
                               "5",
                               ".86400",
                               "." + std::to_string(kToday - 100 * kDay)};
    tests::write_file(marks + name.substr(0, 64) + bad[number++ % std::size(bad)], base::Bytes());
    tests::write_file(marks + name.substr(0, 64) + ".another", base::Bytes());
  }
  CHECK(repack(store, 20 * kDay).removed_packs == 0);
  CHECK(repack(store, 33 * kDay).removed_packs == 0);
  CHECK(repack(store, 34 * kDay).removed_packs == 12);
}

TEST_CASE("a hand-filled file is no reason to remove a pack", "[vat][repack]") {
  TestVat store;
  const auto blob = text(1);
  const auto other = text(2);
  (void)store.add_pack({blob});
  (void)store.add_pack({other});
  const auto hex = store.id_of(blob).hex();
  base::make_directories(store.path() + "/primary/" + hex.substr(0, 2));
  const auto file = store.path() + "/primary/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".blob";
  tests::write_file(file, blob);
  store.reopen();
  CHECK(repack(store, kToday + kDay, false, 0).removed_packs == 2);
  REQUIRE(::unlink(file.c_str()) == 0);
  store.reopen();
  check(store, {blob, other});
}

TEST_CASE("a dry run changes nothing and counts the same", "[vat][repack]") {
  TestVat store;
  (void)add_packs(store, 12);
  const auto before = store.packs();
  vat::RepackOptions options;
  options.automatic = options.dry_run = true;
  options.grace = 0;
  options.now = kToday + kDay;
  const auto dry = vat::repack(*store, options);
  CHECK(store.packs() == before);
  options.dry_run = false;
  const auto done = vat::repack(*store, options);
  CHECK(dry.packs == done.packs);
  CHECK(dry.new_packs == done.new_packs);
  CHECK(dry.removed_packs == done.removed_packs);
}

TEST_CASE("a pack with a damaged blob stays, what is sound of it is copied", "[vat][repack]") {
  TestVat store;
  const auto blobs = add_packs(store, 11);
  const auto bad = store.add_pack({text(70, 9000), text(71, 9000)});
  store.damage(bad, store.id_of(text(70, 9000)));
  const auto summary = repack(store, kDay, true, 0);
  CHECK(summary.packs == 12);
  CHECK(summary.kept == 1);
  CHECK(summary.removed_packs == 11);
  const auto packs = store.packs();
  CHECK(packs.size() == 2);
  CHECK(std::count(packs.begin(), packs.end(), bad) == 1);
  check(store, blobs);
  CHECK(tests::holds(*store, store.id_of(text(71, 9000)), text(71, 9000)));
  // What was found bad is marked, so that adding it again heals it.
  CHECK(store.add(text(70, 9000)) == store.id_of(text(70, 9000)));
  CHECK(tests::holds(*store, store.id_of(text(70, 9000)), text(70, 9000)));
}

TEST_CASE("an old pack is not removed once its successor is found damaged or gone", "[vat][repack]") {
  TestVat store;
  const auto blobs = add_packs(store, 12);
  const auto old = store.packs();
  REQUIRE(repack(store, kDay).kept == 0);
  auto packs = store.packs();
  std::erase_if(packs, [&](const auto& name) { return std::count(old.begin(), old.end(), name) > 0; });
  REQUIRE(packs.size() == 1);
  const bool gone = GENERATE(false, true);
  store.reopen();
  if (gone) {
    REQUIRE(::unlink(store.pack_path(packs[0]).c_str()) == 0);
  } else {
    TestVat::flip(store.pack_path(packs[0]), 200);
    TestVat::make_old(store.pack_path(packs[0]));
    CHECK(damaged(store) > 0);
  }
  const auto later = repack(store, 100 * kDay);
  CHECK(later.removed_packs == 0);
  CHECK(later.packs >= 12);  // and written again
  check(store, blobs);
  store.reopen();
  check(store, blobs);
}

TEST_CASE("only one at a time takes copies away", "[vat][repack]") {
  TestVat store;
  (void)add_packs(store, 12);
  const auto held = store->impl().lock_removal();
  try {
    (void)repack(store, kDay);
    FAIL("not refused");
  } catch (const base::Error& error) {
    CHECK(error.category() == base::Category::busy);
  }
  vat::VerifyOptions options;
  options.repair = true;
  CHECK_THROWS_AS(vat::verify(*store, options, [](const vat::Damage&) {}), base::Error);
}
