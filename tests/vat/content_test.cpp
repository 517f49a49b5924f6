// Content by id: ranges, claims that lie, recipes and lists that lie.
#include "vat/content.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "formats/base/error.h"
#include "formats/text/recipe.h"
#include "tests/vat/test_vat.h"

using base::Category;
using base::ObjectId;
using formats::RecipeItem;
using tests::TestVat;

namespace {

using Parts = std::vector<RecipeItem>;

RecipeItem chunk(TestVat& store, vat::Adder& adder, const base::Buffer& content) {
  return {RecipeItem::Type::chunk, content.size(), store.put(adder, content), 0};
}

/// Stores a recipe that claims to describe `claimed`, and nothing else of what it says.
ObjectId put_recipe(TestVat& store, vat::Adder& adder, const Parts& parts,
                    const std::optional<ObjectId>& claimed) {
  formats::RecipeWriter writer(store->object_format(), adder.put_text(formats::BlobKind::recipe));
  for (const auto& part : parts) writer.add(part);
  return writer.finish({writer.size(), store->parameters().id(), claimed});
}

base::Buffer read(vat::BlobSource& source, const ObjectId& id, const vat::ByteRange& range = {}) {
  base::Buffer bytes;
  vat::stream_content(source, id, range, [&](base::Bytes part) { base::append(bytes, part); });
  return bytes;
}

}  // namespace

TEST_CASE("content that is read ahead is the same, and so is what is wrong with it", "[vat][content]") {
  TestVat store;
  const auto content = tests::random_bytes(std::size_t{30} << 20, 1);
  const std::size_t size = std::size_t{1} << 20;
  const auto id = store.id_of(content);
  Parts parts;
  std::string pack;
  {
    vat::Adder adder(*store);
    for (std::size_t at = 0; at < content.size(); at += size) {
      const base::Buffer part(content.begin() + static_cast<std::ptrdiff_t>(at),
                              content.begin() + static_cast<std::ptrdiff_t>(at + size));
      parts.push_back(chunk(store, adder, part));
    }
    adder.claim(id, put_recipe(store, adder, parts, id), content.size());
    pack = adder.finish().packs[0] + ".zst";
  }
  const auto damaged = GENERATE(-1, 0, 15, 29);
  if (damaged >= 0) store.damage(pack, parts[static_cast<std::size_t>(damaged)].id);
  store.reopen();
  for (const std::uint64_t from : {std::uint64_t{0}, 10 * std::uint64_t{size} + 7}) {
    base::Buffer got;
    const auto stream = [&] {
      vat::stream_content(*store, id, {from}, [&](base::Bytes part) { base::append(got, part); });
    };
    const bool touched = damaged >= 0 && (static_cast<std::uint64_t>(damaged) + 1) * size > from;
    if (touched)
      CHECK(tests::category_of(stream) == Category::corrupt);
    else
      stream();
    const auto expected =
        touched ? std::max(static_cast<std::uint64_t>(damaged) * size, from) : content.size();
    REQUIRE(got.size() == expected - from);
    CHECK(std::equal(got.begin(), got.end(), content.begin() + static_cast<std::ptrdiff_t>(from)));
  }
}

TEST_CASE("a pack is indexed with the content its recipes describe, even if its add never ends",
          "[vat][content]") {
  TestVat store;
  const auto first = tests::random_bytes(100'000, 1), second = tests::random_bytes(1000, 2);
  auto content = first;
  base::append(content, second);
  const auto id = store.id_of(content);
  {
    vat::Adder adder(*store, {1, formats::kDefaultLevel, 1});  // a pack for each group
    adder.claim(id, put_recipe(store, adder, {chunk(store, adder, first), chunk(store, adder, second)}, id),
                content.size());
    // What pushes the recipe's group out; then the add is abandoned.
    const auto text = tests::random_bytes(300'000, 3);
    (void)adder.put(store.id_of(text), formats::BlobKind::piece, vat::Grouping::text, text);
    for (unsigned i = 4; i < 10; ++i) (void)store.put(adder, tests::random_bytes(1000, i));
  }
  store.reopen();
  CHECK(read(*store, id) == content);
  store.lose_index();  // as it is when made anew
  CHECK(read(*store, id) == content);
}

TEST_CASE("ranges are exact at every edge of chunks, slices and holes", "[vat][content]") {
  TestVat store;
  vat::Adder adder(*store);
  const auto a = tests::random_bytes(1000, 1), b = tests::random_bytes(4096 - 1000, 2),
             c = tests::random_bytes(777, 3);
  base::Buffer whole = a;
  base::append(whole, b);
  whole.resize(whole.size() + 65536);
  base::append(whole, c);
  base::append(whole, base::Bytes(b).subspan(5, 100));
  base::append(whole, a);
  auto slice = chunk(store, adder, b);
  slice.type = RecipeItem::Type::slice;
  slice.offset = 5;
  slice.size = 100;
  const auto id = store.id_of(whole);
  const auto recipe = put_recipe(store, adder,
                                 {chunk(store, adder, a),
                                  chunk(store, adder, b),
                                  {RecipeItem::Type::hole, 65536, {}, 0},
                                  chunk(store, adder, c),
                                  slice,
                                  chunk(store, adder, a)},
                                 id);
  adder.claim(id, recipe, whole.size());
  (void)adder.finish();
  CHECK(vat::find_content(*store, id).recipe == recipe);

  std::set<std::uint64_t> edges{0, 1, 70000, UINT64_MAX};
  for (const std::uint64_t edge : {1000U, 4096U, 69632U, 70409U, 70509U, 71509U})
    for (const std::uint64_t near : {edge - 1, edge, edge + 1}) edges.insert(near);
  for (const auto from : edges)
    for (const auto length : edges) {
      const auto begin = std::min<std::uint64_t>(from, whole.size());
      const auto end = begin + std::min<std::uint64_t>(length, whole.size() - begin);
      const base::Buffer wanted(whole.begin() + static_cast<std::ptrdiff_t>(begin),
                                whole.begin() + static_cast<std::ptrdiff_t>(end));
      base::Buffer got;
      std::uint64_t holes = 0;
      vat::stream_recipe(
          *store, recipe, {from, length}, [&](base::Bytes part) { base::append(got, part); },
          [&](std::uint64_t hole) {
            holes += hole;
            got.resize(got.size() + hole);
          });
      const auto hole_begin = std::clamp<std::uint64_t>(begin, 4096, 69632);
      const auto hole_end = std::clamp<std::uint64_t>(end, 4096, 69632);
      if (got != wanted || read(*store, id, {from, length}) != wanted || holes != hole_end - hole_begin) {
        INFO("from " << from << " length " << length);
        CHECK(got == wanted);
        CHECK(holes == hole_end - hole_begin);
        CHECK(read(*store, id, {from, length}) == wanted);
      }
    }
}

TEST_CASE("a range fetches only the chunks it touches", "[vat][content]") {
  TestVat store;
  vat::Adder adder(*store);
  const auto good = tests::random_bytes(1000, 1);
  const auto absent = store.id_of(tests::random_bytes(10, 9));
  const auto recipe = put_recipe(store, adder,
                                 {{RecipeItem::Type::chunk, 10, absent, 0},
                                  chunk(store, adder, good),
                                  {RecipeItem::Type::chunk, 10, absent, 0}},
                                 std::nullopt);
  (void)adder.finish();
  base::Buffer got;
  const auto sink = [&](base::Bytes part) { base::append(got, part); };
  vat::stream_recipe(*store, recipe, {10, 1000}, sink);
  CHECK(got == good);
  CHECK(tests::category_of([&] { vat::stream_recipe(*store, recipe, {9, 1}, sink); }) == Category::not_found);
  CHECK(tests::category_of([&] {
          vat::stream_recipe(*store, recipe, {10, 1001}, sink);
        }) == Category::not_found);
  CHECK(tests::category_of([&] { vat::stream_recipe(*store, absent, {}, sink); }) == Category::not_found);
}

TEST_CASE("a recipe that claims content it does not describe is found out, every time", "[vat][content]") {
  TestVat store;
  const auto content = tests::random_bytes(3000, 1), other = tests::random_bytes(3000, 2),
             shorter = tests::random_bytes(2999, 3);
  const auto id = store.id_of(content);
  vat::Adder adder(*store);
  const bool same_size = GENERATE(true, false);
  const auto lie = put_recipe(store, adder, {chunk(store, adder, same_size ? other : shorter)}, id);
  (void)adder.finish();
  store.lose_index();  // nobody claimed it through the adder: the index reads it out of the pack
  REQUIRE(store->find_recipes(id).size() == 1);
  CHECK(store->find_recipes(id)[0].recipe == lie);
  for (int time = 0; time < 3; ++time) {
    CHECK(tests::category_of([&] { (void)vat::find_content(*store, id); }) == Category::corrupt);
    CHECK(tests::category_of([&] { (void)read(*store, id); }) == Category::corrupt);
    REQUIRE(store->find_recipes(id).size() == 1);
    CHECK_FALSE(store->find_recipes(id)[0].proven);
    if (time == 1) store.reopen();
  }

  SECTION("the index cannot vouch for it") {
    store->impl().with_index([&](auto& index) { index.put_claims({{id, lie, 3000, true}}); });
    CHECK_FALSE(store->find_recipes(id)[0].proven);
    CHECK(tests::category_of([&] { (void)vat::find_content(*store, id); }) == Category::corrupt);
  }
  SECTION("an honest recipe beside it is used") {
    vat::Adder again(*store);
    const auto half = static_cast<std::ptrdiff_t>(1500);
    const auto honest = put_recipe(store, again,
                                   {chunk(store, again, {content.begin(), content.begin() + half}),
                                    chunk(store, again, {content.begin() + half, content.end()})},
                                   id);
    (void)again.finish();
    store.lose_index();
    CHECK(store->find_recipes(id).size() == 2);
    CHECK(vat::find_content(*store, id).recipe == honest);
    CHECK(store->find_recipes(id)[0].recipe == honest);
    CHECK(store->find_recipes(id)[0].proven);
    CHECK_FALSE(store->find_recipes(id)[1].proven);
    CHECK(read(*store, id) == content);
    store.reopen();
    CHECK(store->find_recipes(id)[0].proven);  // remembered beyond the process
  }
  SECTION("the blob itself beside it is used") {
    (void)store.add(content);
    CHECK_FALSE(vat::find_content(*store, id).recipe);
    CHECK(read(*store, id) == content);
  }
}

TEST_CASE("a recipe whose chunks are gone is no reason not to read the content by another",
          "[vat][content]") {
  TestVat store;
  const auto content = tests::random_bytes(3000, 1);
  const auto id = store.id_of(content);
  const auto parts_at = [&](vat::Adder& adder, std::ptrdiff_t size) {
    return Parts{chunk(store, adder, {content.begin(), content.begin() + size}),
                 chunk(store, adder, {content.begin() + size, content.end()})};
  };
  vat::Adder leaving(*store);
  const auto first = parts_at(leaving, 1000);
  const auto pack = leaving.finish().packs.at(0);
  vat::Adder adder(*store);
  const auto gone = put_recipe(store, adder, first, id);
  const auto other = put_recipe(store, adder, parts_at(adder, 1500), id);
  (void)adder.finish();
  store.lose_index();  // it reads what they claim to be out of the pack
  REQUIRE(store->find_recipes(id).size() == 2);
  store->note_proven(id, gone, content.size());
  REQUIRE(store->find_recipes(id)[0].recipe == gone);
  REQUIRE(::unlink(store.pack_path(pack + ".zst").c_str()) == 0);
  store.reopen();
  CHECK(vat::find_content(*store, id).recipe == other);
  CHECK(read(*store, id) == content);
}

TEST_CASE("claims whose parts are missing or of another size do not hold", "[vat][content]") {
  TestVat store;
  const auto content = tests::random_bytes(3000, 1);
  const auto id = store.id_of(content);
  vat::Adder adder(*store);
  Parts parts{chunk(store, adder, content)};
  Category wanted = Category::refused;
  SECTION("a chunk is missing") {
    parts[0].id = store.id_of(tests::random_bytes(10, 10));
    wanted = Category::not_found;
  }
  SECTION("a chunk is larger than listed") {
    parts[0].size = 2999;
  }
  SECTION("a chunk is smaller than listed") {
    parts[0].size = 3001;
  }
  SECTION("a slice ends beyond its blob") {
    parts[0] = {RecipeItem::Type::slice, 2, parts[0].id, 2999};
  }
  SECTION("a slice begins beyond its blob") {
    parts[0] = {RecipeItem::Type::slice, 2, parts[0].id, UINT64_MAX - 10};
  }
  (void)put_recipe(store, adder, parts, id);
  (void)adder.finish();
  base::remove_tree(AT_FDCWD, store.path() + "/local");
  store.reopen();
  // The blob itself is stored too; ask for content that only the recipe has.
  const auto claims = store->find_recipes(id);
  REQUIRE(claims.size() == 1);
  CHECK(tests::category_of([&] { vat::stream_recipe(*store, claims[0].recipe, {}, [](base::Bytes) {}); }) ==
        wanted);
}

TEST_CASE("list lines whose sizes lie are refused", "[vat][content]") {
  TestVat store;
  vat::Adder adder(*store);
  Parts parts;
  base::Buffer whole;
  for (std::uint64_t i = 0; i < 6000; ++i) {
    const auto content = tests::random_bytes(40, i);
    base::append(whole, content);
    parts.push_back({RecipeItem::Type::chunk, 40, store.id_of(content), 0});
    (void)adder.put(parts.back().id, formats::BlobKind::data, vat::Grouping::small_file, content);
  }
  const auto honest = put_recipe(store, adder, parts, store.id_of(whole));
  (void)adder.finish();
  store.lose_index();
  CHECK(read(*store, store.id_of(whole)) == whole);
  auto text = tests::to_text(store->read(honest));
  REQUIRE(text.find(" level 2\n") != std::string::npos);
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  REQUIRE(lines.size() > 3);
  const auto add_to_size = [&](std::size_t line, std::int64_t by) {
    const auto blank = lines[line].rfind(' ');
    lines[line] =
        lines[line].substr(0, blank + 1) + std::to_string(std::stoll(lines[line].substr(blank + 1)) + by);
  };
  // The sum stays right.
  const int how = GENERATE(0, 1, 2);
  if (how == 0) add_to_size(1, -40), add_to_size(2, 40);
  if (how == 1) add_to_size(1, 40), add_to_size(2, -40);
  if (how == 2) add_to_size(1, 1), add_to_size(lines.size() - 1, -1);
  std::string changed;
  for (const auto& line : lines) changed += line + "\n";
  vat::Adder again(*store);
  const auto lie = store.id_of(base::as_bytes(changed));
  (void)again.put(lie, formats::BlobKind::recipe, vat::Grouping::text, base::as_bytes(changed));
  (void)again.finish();
  const auto category = tests::category_of([&] { vat::stream_recipe(*store, lie, {}, [](base::Bytes) {}); });
  CHECK(category == Category::refused);
}

TEST_CASE("a stored blob that is damaged falls back on a recipe of it", "[vat][content]") {
  TestVat store;
  const auto content = tests::random_bytes(6000, 1);
  const auto id = store.id_of(content);
  const auto pack = store.add_pack({content});
  vat::Adder adder(*store);
  const auto half = static_cast<std::ptrdiff_t>(3000);
  const auto recipe = put_recipe(store, adder,
                                 {chunk(store, adder, {content.begin(), content.begin() + half}),
                                  chunk(store, adder, {content.begin() + half, content.end()})},
                                 id);
  (void)adder.finish();
  store.lose_index();
  CHECK_FALSE(vat::find_content(*store, id).recipe);
  store.damage(pack, id);
  CHECK(tests::category_of([&] { (void)read(*store, id); }) == Category::corrupt);  // this finds it out
  CHECK(vat::find_content(*store, id).recipe == recipe);
  CHECK(read(*store, id) == content);
}

TEST_CASE("content nobody has is not found", "[vat][content]") {
  TestVat store;
  const auto id = store.id_of(tests::random_bytes(10, 1));
  CHECK(tests::category_of([&] { (void)vat::find_content(*store, id); }) == Category::not_found);
  CHECK(tests::category_of([&] { (void)read(*store, id, {0, 0}); }) == Category::not_found);
}
