#include "formats/text/recipe.h"

#include <catch2/catch.hpp>

#include "tests/formats/text_store.h"

using base::Category;
using base::ObjectFormat;
using formats::RecipeHeader;
using formats::RecipeItem;
using formats::RecipeReader;
using formats::RecipeWriter;
using tests::numbered_id;
using Type = RecipeItem::Type;

namespace {

const std::string kChunk = numbered_id(1).hex();

std::vector<RecipeItem> read(tests::TextStore& store, base::Buffer root) {
  RecipeReader reader(std::move(root), ObjectFormat::sha256, store.get());
  std::vector<RecipeItem> items;
  for (RecipeItem item; reader.next(item);) items.push_back(item);
  return items;
}

base::ObjectId write(tests::TextStore& store, const std::vector<RecipeItem>& items, RecipeHeader header) {
  RecipeWriter writer(ObjectFormat::sha256, store.put());
  for (const auto& item : items) writer.add(item);
  header.size = writer.size();
  return writer.finish(header);
}

bool refused(tests::TextStore& store, const std::string& root) {
  return tests::category_of([&] { (void)read(store, tests::to_buffer(root)); }) == Category::refused;
}
bool refused(const std::string& root) {
  tests::TextStore store;
  return refused(store, root);
}

/// Lines after a header that declares `size`.
std::string recipe(std::uint64_t size, const std::string& lines) {
  return "recipe 1 sha256 " + std::to_string(size) + " vg1:a=16 -\n" + lines;
}

RecipeItem chunk(std::size_t number, std::uint64_t size) {
  return {Type::chunk, size, numbered_id(number), 0};
}

bool same(const std::vector<RecipeItem>& a, const std::vector<RecipeItem>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.type == y.type && x.size == y.size && x.id == y.id && x.offset == y.offset;
  });
}

/// 20000 chunks: what tests/golden values of long recipes are made of.
std::vector<RecipeItem> many() {
  std::vector<RecipeItem> items;
  for (std::size_t i = 0; i < 20000; ++i) items.push_back(chunk(i, i % 5000 + 1));
  return items;
}

}  // namespace

TEST_CASE("a recipe is spelled as documented", "[recipe]") {
  tests::TextStore store;
  RecipeHeader header{0, "vg1:a=16", numbered_id(7)};
  const std::vector<RecipeItem> items{
      chunk(1, 4096), {Type::hole, 65536, {}, 0}, {Type::slice, 5, numbered_id(2), 1234567890123}};
  (void)write(store, items, header);
  // numbered_id(1) is `printf 1 | git hash-object --stdin` in a sha256 repository.
  const std::string expected =
      "recipe 1 sha256 69637 vg1:a=16 " + header.blob->hex() +
      "\n36456d9b87f21fc54ed5babf1222a9ab0fbbd0c4ad239a7933522d5e4447049c 4096\nhole 65536\n" +
      numbered_id(2).hex() + " 5 1234567890123\n";
  CHECK(tests::to_text(store.root()) == expected);
  CHECK(same(read(store, store.root()), items));
  const auto found = formats::find_recipe_header(store.root(), ObjectFormat::sha256);
  REQUIRE(found);
  CHECK(found->size == 69637);
  CHECK(found->chunker == "vg1:a=16");
  CHECK(found->blob == header.blob);
}

TEST_CASE("a long recipe has the id that the documented rules give", "[recipe]") {
  tests::TextStore store;
  // Golden value: the rules of docs/formats/text-objects.md written anew in Python.
  CHECK(write(store, many(), {0, "vg1:a=16", {}}).hex() ==
        "6907cad94d75f0d106d0ef2db8e12b3e2660762849110d667baf5bc029962426");
  CHECK(store.ids().size() == 14);
  CHECK(same(read(store, store.root()), many()));
}

TEST_CASE("recipes of sha1 vats hold sha1 ids", "[recipe]") {
  tests::TextStore store(ObjectFormat::sha1);
  RecipeWriter writer(ObjectFormat::sha1, store.put());
  writer.add({Type::chunk, 3, numbered_id(1, ObjectFormat::sha1), 0});
  (void)writer.finish({3, "vg1:a=14", {}});
  // `printf 1 | git hash-object --stdin`
  CHECK(tests::to_text(store.root()) ==
        "recipe 1 sha1 3 vg1:a=14 -\n56a6051ca2b02b04ef92d5150c9ef600403cb1de 3\n");
  CHECK_FALSE(formats::find_recipe_header(store.root(), ObjectFormat::sha256));
  CHECK(refused(tests::to_text(store.root())));
}

TEST_CASE("a recipe of nothing has no lines", "[recipe]") {
  tests::TextStore store;
  CHECK(read(store, tests::to_buffer(recipe(0, ""))).empty());
  CHECK(refused(recipe(1, "")));
}

TEST_CASE("a recipe that lists other than its size is a bug of its writer", "[recipe]") {
  tests::TextStore store;
  RecipeWriter writer(ObjectFormat::sha256, store.put());
  writer.add(chunk(1, 10));
  CHECK(tests::category_of([&] { (void)writer.finish({9, "vg1:a=16", {}}); }) == Category::internal);
}

TEST_CASE("lines that are not canonical are refused", "[recipe]") {
  const auto& id = kChunk;
  for (const auto& bad : {
           recipe(10, id + " 9\n"),
           recipe(10, id + " 11\n"),
           recipe(10, id + " 9\n" + id + " 2\n"),  // sums
           recipe(10, id + " 010\n"),
           recipe(10, id + " +10\n"),
           recipe(10, id + "  10\n"),
           recipe(10, id + " 10 \n"),
           recipe(10, " " + id + " 10\n"),
           recipe(10, id + "\t10\n"),
           recipe(10, id + " 10\r\n"),
           recipe(10, id + "\n"),
           recipe(10, id + " \n"),
           recipe(10, id + " 0\n" + id + " 10\n"),
           recipe(10, "\n"),
           recipe(10, "10\n"),
           recipe(10, id + " 10\n\n"),
           recipe(10, id.substr(1) + " 10\n"),
           recipe(10, "A" + id.substr(1) + " 10\n"),
           recipe(10, id.substr(0, 40) + " 10\n"),
           recipe(10, id + " 10 01\n"),
           recipe(10, id + " 10 -1\n"),
           recipe(10, id + " 10 1 1\n"),
           recipe(10, id + " 10 1 \n"),
           recipe(10, id + " 10  1\n"),
           recipe(10, id + " 10 18446744073709551606\n"),  // the slice would end past 2^64
           recipe(10, id + " 18446744073709551615\n"),
           recipe(10, id + " 18446744073709551626\n"),
           recipe(5 << 20, id + " 5242880\n"),  // longer than any chunk
           recipe(5 << 20, id + " 5242880 0\n"),
       }) {
    INFO(bad);
    CHECK(refused(bad));
  }
}

TEST_CASE("holes are aligned, long and never neighbours", "[recipe]") {
  tests::TextStore store;
  const auto& id = kChunk;
  CHECK(read(store, tests::to_buffer(recipe(65536, "hole 65536\n"))).size() == 1);
  CHECK(read(store, tests::to_buffer(recipe(69632, id + " 4096\nhole 65536\n"))).size() == 2);
  CHECK(read(store, tests::to_buffer(recipe(std::uint64_t{1} << 60, "hole 1152921504606846976\n"))).size() ==
        1);
  for (const auto& bad :
       {recipe(61440, "hole 61440\n"), recipe(65537, "hole 65537\n"),
        recipe(65636, id + " 100\nhole 65536\n"), recipe(131072, "hole 65536\nhole 65536\n"),
        recipe(65536, "hole 65536 0\n"), recipe(65536, "hole 65536 \n"), recipe(0, "hole 0\n"),
        recipe(65536, "Hole 65536\n"), recipe(65536, "hole\n"), recipe(65536, "hole -\n")}) {
    INFO(bad);
    CHECK(refused(bad));
  }
}

TEST_CASE("a first line that is not canonical is refused", "[recipe]") {
  for (const std::string bad :
       {"", " ", " 0", " 0 vg1:a=16", " 0 vg1:a=16 ", " 0 vg1:a=16 --", " 0 vg1:a=16 - ", " 00 vg1:a=16 -",
        " -0 vg1:a=16 -", " 0  -", "  0 vg1:a=16 -", " 0 vg1:a=16  -", " 18446744073709551616 vg1:a=16 -",
        " 0 vg1:a=16 - level 1", " 0 vg1:a=16 - level 9", " 0 vg1:a=16 abc", " x vg1:a=16 -"}) {
    INFO(bad);
    CHECK(refused("recipe 1 sha256" + bad + "\n"));
    CHECK_FALSE(
        formats::find_recipe_header(base::as_bytes("recipe 1 sha256" + bad + "\n"), ObjectFormat::sha256));
  }
  CHECK_FALSE(formats::find_recipe_header(base::as_bytes("manifest 1 sha256\n"), ObjectFormat::sha256));
  CHECK_FALSE(formats::find_recipe_header({}, ObjectFormat::sha256));
}

TEST_CASE("seek fetches only the pieces that hold the offset", "[recipe]") {
  tests::TextStore store;
  const auto items = many();
  (void)write(store, items, {0, "vg1:a=16", {}});
  for (const std::uint64_t target :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{25000000}, std::uint64_t{50009999}}) {
    store.fetched.clear();
    RecipeReader reader(store.root(), ObjectFormat::sha256, store.get());
    reader.seek(target);
    RecipeItem item;
    do {
      REQUIRE(reader.next(item));
    } while (reader.offset() <= target);
    CHECK(store.fetched.size() == 1);
    std::uint64_t offset = 0;
    std::size_t at = 0;
    while (offset + items[at].size <= target) offset += items[at++].size;
    CHECK(item.id == items[at].id);
    CHECK(reader.offset() == offset + item.size);
    while (reader.next(item)) ++at;
    CHECK(at == items.size() - 1);
    CHECK(reader.offset() == reader.header().size);
  }
  RecipeReader reader(store.root(), ObjectFormat::sha256, store.get());
  store.fetched.clear();
  reader.seek(reader.header().size);
  RecipeItem item;
  CHECK_FALSE(reader.next(item));
  CHECK(store.fetched.empty());
}

TEST_CASE("a list that lies about sizes is refused", "[recipe]") {
  tests::TextStore store;
  const auto piece = store.add(kChunk + " 10\n").hex();
  const auto root = [&](const std::string& size) {
    return tests::to_buffer("recipe 1 sha256 20 vg1:a=16 - level 2\n" + piece + " 1 10\n" + piece + " 1 " +
                            size + "\n");
  };
  const auto seek_and_read = [&](const std::string& size, std::uint64_t offset) {
    RecipeReader reader(root(size), ObjectFormat::sha256, store.get());
    reader.seek(offset);
    RecipeItem item;
    while (reader.next(item)) {
    }
  };
  seek_and_read("10", 15);
  seek_and_read("10", 20);
  for (const auto* size : {"9", "11", "010", "x", "18446744073709551615", "0", "10 "}) {
    INFO(size);
    CHECK(tests::category_of([&] { seek_and_read(size, 20); }) == Category::refused);
    CHECK(tests::category_of([&] { seek_and_read(size, 15); }) == Category::refused);
  }
}

TEST_CASE("a damaged recipe is refused, or is the canonical form of another", "[recipe]") {
  tests::TextStore store;
  (void)write(store, {chunk(1, 4096), {Type::hole, 65536, {}, 0}, {Type::slice, 5, numbered_id(2), 77}},
              {0, "vg1:a=16", numbered_id(3)});
  const auto root = store.root();
  const auto try_read = [&](const base::Buffer& bytes) {
    std::vector<RecipeItem> items;
    if (!tests::accepts([&] { items = read(store, bytes); })) return;
    tests::TextStore again;
    (void)write(again, items, formats::find_recipe_header(bytes, ObjectFormat::sha256).value());
    CHECK(again.root() == bytes);
  };
  tests::for_each_truncation(root, try_read);
  tests::for_each_flip(root, try_read);
}

TEST_CASE("a piece that holds another size than its list says is refused", "[recipe]") {
  tests::TextStore store;
  const auto ten = store.add(kChunk + " 10\n").hex(), twenty = store.add(kChunk + " 20\n").hex();
  const std::string head = "recipe 1 sha256 30 vg1:a=16 - level 2\n";
  CHECK(read(store, tests::to_buffer(head + ten + " 1 10\n" + twenty + " 1 20\n")).size() == 2);
  CHECK(refused(store, head + ten + " 1 20\n" + twenty + " 1 10\n"));  // the sum is right
  CHECK(refused(store, head + ten + " 1 5\n" + twenty + " 1 25\n"));
  CHECK(refused(store, head + ten + " 1 10\n" + twenty + " 1 19\n"));
}

TEST_CASE("no line is handed out that lies beyond the size listed for its piece", "[recipe]") {
  // Who reads a range stops before the piece's end is compared.
  tests::TextStore store;
  const auto ten = store.add(kChunk + " 10\n").hex(),
             twice = store.add(kChunk + " 10\n" + kChunk + " 10\n").hex();
  const std::string head = "recipe 1 sha256 30 vg1:a=16 - level 2\n";
  RecipeReader reader(tests::to_buffer(head + twice + " 2 10\n" + ten + " 1 20\n"), ObjectFormat::sha256,
                      store.get());
  RecipeItem item;
  CHECK(reader.next(item));
  CHECK(tests::message_of([&] { (void)reader.next(item); }) == "recipe: a piece is not of the size listed");
}

TEST_CASE("sizes listed that do not sum up are refused though the lines do", "[recipe]") {
  tests::TextStore store;
  const auto ten = store.add(kChunk + " 10\n").hex();
  const auto message = [&](const std::string& text) {
    return tests::message_of([&] { (void)read(store, tests::to_buffer(text)); });
  };
  CHECK(message("recipe 1 sha256 20 vg1:a=16 - level 2\n" + ten + " 1 20\n" + ten + " 1 10\n") ==
        "recipe: a piece is not of the size listed");
  const auto list = store.add(ten + " 1 10\n").hex(), wide = store.add(ten + " 1 20\n").hex();
  const std::string head = "recipe 1 sha256 20 vg1:a=16 - level 3\n";
  CHECK(read(store, tests::to_buffer(head + list + " 1 10\n" + list + " 1 10\n")).size() == 2);
  CHECK(message(head + wide + " 1 10\n" + list + " 1 10\n") ==
        "recipe: a piece is larger than the one around it");
}
