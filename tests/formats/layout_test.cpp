#include "formats/text/layout.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/formats/text_store.h"

using base::Category;
using base::ObjectFormat;
using base::ObjectId;
using formats::LayoutReader;
using formats::LayoutWriter;
using tests::numbered_id;

namespace {

using Rows = std::vector<std::pair<ObjectId, ObjectId>>;

Rows read(tests::TextStore& store, base::Buffer root) {
  LayoutReader reader(std::move(root), ObjectFormat::sha256, store.get());
  Rows rows;
  for (ObjectId blob, recipe; reader.next(blob, recipe);) rows.emplace_back(blob, recipe);
  return rows;
}

ObjectId write(tests::TextStore& store, const Rows& rows) {
  LayoutWriter writer(ObjectFormat::sha256, store.put());
  for (const auto& [blob, recipe] : rows) writer.add(blob, recipe);
  return writer.finish();
}

/// `count` rows by ascending blob id; the recipe's id is that of a blob that holds the blob id in hex.
Rows many(std::size_t count) {
  Rows rows;
  for (std::size_t i = 0; i < count; ++i) {
    const auto id = numbered_id(i);
    rows.emplace_back(id, base::hash_blob(ObjectFormat::sha256, base::as_bytes(id.hex())));
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace

TEST_CASE("a layout is spelled as documented", "[layout]") {
  tests::TextStore store;
  const auto rows = many(2);
  (void)write(store, rows);
  CHECK(tests::to_text(store.root()) == "layout 1 sha256\n" + rows[0].first.hex() + " " +
                                            rows[0].second.hex() + "\n" + rows[1].first.hex() + " " +
                                            rows[1].second.hex() + "\n");
  CHECK(read(store, store.root()) == rows);
}

TEST_CASE("a layout of no rows is its first line", "[layout]") {
  tests::TextStore store;
  (void)write(store, {});
  CHECK(tests::to_text(store.root()) == "layout 1 sha256\n");
  CHECK(read(store, store.root()).empty());
}

TEST_CASE("a long layout has the id that the documented rules give", "[layout]") {
  tests::TextStore store;
  const auto rows = many(20000);
  // Golden value: the rules of docs/formats/text-objects.md written anew in Python.
  CHECK(write(store, rows).hex() == "3b16b285c3790352691c0c97e02f0e9bb39eef40d8dea3adef2349feb6dc0ca6");
  CHECK(store.ids().size() == 18);
  CHECK(read(store, store.root()) == rows);
}

TEST_CASE("a layout writer given rows out of order is a bug", "[layout]") {
  const auto rows = many(2);
  for (const std::size_t second : {0U, 1U}) {
    tests::TextStore store;
    LayoutWriter writer(ObjectFormat::sha256, store.put());
    writer.add(rows[1].first, rows[1].second);
    CHECK(tests::category_of([&] { writer.add(rows[second].first, rows[0].second); }) == Category::internal);
  }
}

TEST_CASE("layouts that are not canonical are refused", "[layout]") {
  tests::TextStore store;
  const auto rows = many(2);
  const auto a = rows[0].first.hex(), b = rows[1].first.hex(), r = rows[0].second.hex();
  const std::string head = "layout 1 sha256\n";
  for (const auto& bad : {head + b + " " + r + "\n" + a + " " + r + "\n",
                          head + a + " " + r + "\n" + a + " " + r + "\n",
                          head + a + "\n",
                          head + a + " \n",
                          head + a + "  " + r + "\n",
                          head + a + " " + r + " \n",
                          head + a + " " + r + " " + r + "\n",
                          head + " " + a + " " + r + "\n",
                          head + "\n",
                          head + a + " " + r,
                          head + a + " " + r + "\r\n",
                          head + a.substr(0, 40) + " " + r.substr(0, 40) + "\n",
                          head + a + " " + r.substr(1) + "\n",
                          head + a + " -\n",
                          head + a + " " + r + "\n\n",
                          std::string("layout 1 sha256 \n"),
                          std::string("layout 1 sha256 x\n"),
                          std::string("layout 1 sha1\n"),
                          std::string("layout 2 sha256\n"),
                          std::string("recipe 1 sha256\n"),
                          std::string()}) {
    INFO(bad);
    CHECK(tests::category_of([&] { (void)read(store, tests::to_buffer(bad)); }) == Category::refused);
  }
}

TEST_CASE("disorder between pieces is refused", "[layout]") {
  tests::TextStore store;
  const auto rows = many(2);
  std::string pieces[2];
  for (std::size_t i = 0; i < 2; ++i)
    pieces[i] = store.add(rows[i].first.hex() + " " + rows[i].second.hex() + "\n").hex() + " 1 " +
                rows[i].first.hex() + "\n";
  const std::string head = "layout 1 sha256 level 2\n";
  CHECK(read(store, tests::to_buffer(head + pieces[0] + pieces[1])) == rows);
  for (const auto& bad : {head + pieces[1] + pieces[0], head + pieces[0] + pieces[0]})
    CHECK(tests::category_of([&] { (void)read(store, tests::to_buffer(bad)); }) == Category::refused);
}

TEST_CASE("a damaged layout is refused, or is the canonical form of another", "[layout]") {
  tests::TextStore store;
  (void)write(store, many(3));
  const auto root = store.root();
  const auto try_read = [&](const base::Buffer& bytes) {
    Rows rows;
    if (!tests::accepts([&] { rows = read(store, bytes); })) return;
    tests::TextStore again;
    (void)write(again, rows);
    CHECK(again.root() == bytes);
  };
  tests::for_each_truncation(root, try_read);
  tests::for_each_flip(root, try_read);
}
