// What is read as it is touched, and written over what is only read.
#include <algorithm>
#include <cstring>

#include "formats/base/error.h"
#include "formats/text/recipe.h"
#include "tests/formats/damage.h"
#include "tests/wedge/test_store.h"
#include "wedge/lazy_reader.h"
#include "wedge/mount_tree.h"
#include "wedge/overlay.h"

using base::Category;
using formats::RecipeItem;
using tests::Store;

namespace {

base::ObjectId put_recipe(Store& store, const std::vector<RecipeItem>& items) {
  vat::Adder adder(*store.store);
  formats::RecipeWriter writer(base::ObjectFormat::sha256, adder.put_text(formats::BlobKind::recipe));
  for (const auto& item : items) writer.add(item);
  const auto id = writer.finish({writer.size(), store.store->parameters().id(), std::nullopt});
  (void)adder.finish();
  return id;
}

std::string read_all(Store& store, const base::ObjectId& recipe, std::uint64_t size) {
  wedge::LazyReader reader(*store.store, {});
  const auto file = reader.open(size, [&] { return wedge::LazyReader::Made{std::nullopt, recipe}; });
  base::Buffer bytes(static_cast<std::size_t>(size));
  const auto count = reader.read(file, 0, bytes);
  REQUIRE(count == size);
  return std::string(base::as_chars(bytes));
}

/// A disk of the letters a to z, and what it was asked for.
wedge::NbdDisk letters(std::uint64_t size, std::vector<std::uint64_t>& asked) {
  return {"letters", size,
          [&asked](std::uint64_t at, base::MutableBytes to, const std::function<bool()>& is_over) {
            if (is_over && is_over()) throw base::Error(Category::busy, "given up");
            asked.push_back(at);
            for (auto& byte : to) byte = static_cast<std::byte>('a' + at++ % 26);
          },
          [size](std::uint64_t, const std::function<bool()>&) {
            return wedge::NbdDisk::Run{size, false};
          }};
}

}  // namespace

TEST_CASE("a chunk has the size its line says, a slice lies in its blob", "[wedge][lazy]") {
  Store store;
  const auto id = store.put("0123456789");
  CHECK(read_all(store, put_recipe(store, {{RecipeItem::Type::slice, 4, id, 3}}), 4) == "3456");
  const auto longer = put_recipe(store, {{RecipeItem::Type::chunk, 4, id, 0}});
  const auto shorter = put_recipe(store, {{RecipeItem::Type::chunk, 11, id, 0}});
  const auto beyond = put_recipe(store, {{RecipeItem::Type::slice, 4, id, 7}});
  CHECK(tests::category_of([&] { (void)read_all(store, longer, 4); }) == Category::refused);
  CHECK(tests::category_of([&] { (void)read_all(store, shorter, 11); }) == Category::refused);
  CHECK(tests::category_of([&] { (void)read_all(store, beyond, 4); }) == Category::refused);
  CHECK_THAT(tests::message_of([&] { (void)read_all(store, longer, 5); }),
             Catch::Contains("recipe: of another size"));
}

TEST_CASE("what is written lies over the disk, block by block", "[wedge][overlay]") {
  constexpr std::uint64_t kBlock = wedge::Overlay::kBlock, kSize = 10 * kBlock + 100;
  const tests::TempDir dir;
  std::vector<std::uint64_t> asked;
  wedge::Overlay overlay(letters(kSize, asked), dir.path());
  const auto disk = overlay.disk();
  std::vector<std::uint64_t> unused;
  base::Buffer expected(kSize), seen(kSize);
  letters(kSize, unused).read(0, expected, {});
  const auto write = [&](std::uint64_t at, std::size_t size, char c) {
    const base::Buffer bytes(size, static_cast<std::byte>(c));
    disk.write(at, bytes, {});
    std::copy(bytes.begin(), bytes.end(), expected.begin() + static_cast<std::ptrdiff_t>(at));
  };
  write(kBlock, kBlock, 'X');  // all of a block: nothing is read for it
  CHECK(asked.empty());
  write(3 * kBlock + 10, 2 * kBlock, 'Y');  // parts of two: they are
  CHECK(asked == std::vector<std::uint64_t>{3 * kBlock, 5 * kBlock});
  write(kSize - 1, 1, 'Z');
  disk.read(0, seen, {});
  CHECK(seen == expected);
  CHECK_FALSE(disk.run_at(kBlock, {}).is_hole);
  CHECK(disk.run_at(0, {}).end == kBlock);
  CHECK(disk.run_at(3 * kBlock, {}).end == 6 * kBlock);
  // Whoever has gone does not wait for what lies below.
  asked.clear();
  const std::byte one{1};
  CHECK(tests::category_of([&] {
          disk.write(7 * kBlock + 1, {&one, 1}, [] { return true; });
        }) == Category::busy);
  disk.read(0, seen, {});
  CHECK(seen == expected);
}

TEST_CASE("a mounted tree whose hard link leads to no file is refused", "[wedge][lazy]") {
  Store store;
  const std::string top = "manifest 1 sha256\nd 755 0 0 0.000000000 - - .\n",
                    file = "f 644 0 0 0.000000000 4 " + store.put("evil").hex() + " a\n";
  const auto message = [&](const std::string& rows) {
    const auto manifest = store.put(top + rows, formats::BlobKind::manifest);
    wedge::EntryRoot root;
    root.manifest = manifest;
    wedge::MountTree tree(*store.store, {{"t", root, {}, {}}}, false);
    return tests::message_of([&] { (void)tree.find(tree.find(wedge::MountTree::kTop, "t"), "b"); });
  };
  for (const auto& rows :
       {file + "h - - - - - aa b\n", std::string("d 755 0 0 0.000000000 - - a\nh - - - - - a b\n"),
        std::string("d 755 0 0 0.000000000 - - a\nh - - - - - a a/b\n"), std::string("h - - - - - . b\n")})
    CHECK_THAT(message(rows), Catch::Contains("a hard link to what is not an earlier file"));
}

TEST_CASE("inode numbers fit 32 bits unless there are more paths, and are never given twice",
          "[wedge][lazy]") {
  Store store;
  std::string rows = "manifest 1 sha256\nd 755 0 0 0.000000000 - - .\n";
  for (const auto* name : {"a", "b", "c"})
    rows += std::string("f 644 0 0 0.000000000 0 ") + store.put("").hex() + " " + name + "\n";
  wedge::EntryRoot root;
  root.manifest = store.put(rows, formats::BlobKind::manifest);
  constexpr std::uint64_t kNarrow = std::uint64_t{1} << 32;
  // What entries say of their paths: all; nothing; too few; too many; more than there are numbers.
  const std::vector<std::optional<std::uint64_t>> said{4, std::nullopt, 2, 7, 0, UINT64_MAX, 4};
  std::vector<wedge::MountEntry> entries;
  for (const auto& paths : said) entries.push_back({"d/t" + std::to_string(entries.size()), root, {}, paths});
  wedge::MountTree tree(*store.store, entries, false);
  std::set<std::uint64_t> seen{wedge::MountTree::kTop};
  const auto top = tree.find(wedge::MountTree::kTop, "d");
  CHECK(seen.insert(top).second);
  CHECK(tree.parent_of(top) == wedge::MountTree::kTop);
  for (std::size_t entry = 0; entry < said.size(); ++entry) {
    const auto directory = tree.find(top, "t" + std::to_string(entry));
    CHECK(seen.insert(directory).second);
    CHECK(tree.parent_of(directory) == top);
    CHECK(S_ISDIR(tree.stat_of(directory).st_mode));
    for (const auto* name : {"a", "b", "c"}) {
      const auto file = tree.find(directory, name);
      CHECK(seen.insert(file).second);
      CHECK(tree.path_of(file) == entries[entry].path + "/" + name);
      if (entry == 0 || entry == 3) CHECK(file < kNarrow);
    }
  }
}
