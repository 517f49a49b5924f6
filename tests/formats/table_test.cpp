#include "formats/table/table.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <random>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/table/table_set.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

namespace {

using formats::Table;
using formats::TableBlocks;
using formats::TableSet;
using formats::TableShape;
using formats::TableWriter;

constexpr TableShape kShape = {{'t', 'e', 's', 't', '0', '0', '0', '1'}, 8, 20};

/// A record whose key is `key`, highest byte first, and whose value says `value`.
base::Buffer record(std::uint64_t key, std::uint32_t value) {
  base::Buffer bytes;
  base::append_le(bytes, __builtin_bswap64(key));
  base::append_le(bytes, value);
  bytes.resize(kShape.record_size);
  return bytes;
}

base::Buffer key_of(std::uint64_t key) {
  auto bytes = record(key, 0);
  bytes.resize(kShape.key_size);
  return bytes;
}

std::uint32_t value_of(base::Bytes bytes) {
  return base::load_le<std::uint32_t>(bytes.data() + kShape.key_size);
}

base::Buffer write(const std::vector<std::pair<std::uint64_t, std::uint32_t>>& rows,
                   std::string_view extra = {}) {
  base::Buffer file;
  TableWriter writer(kShape, rows.size(), [&](base::Bytes bytes) { base::append(file, bytes); });
  for (const auto& [key, value] : rows) writer.add(record(key, value));
  writer.finish(base::as_bytes(extra));
  return file;
}

/// A table of a file in memory.
struct Reader {
  base::Buffer file;
  TableBlocks blocks;
  Table table;
  explicit Reader(base::Buffer bytes)
      : file(std::move(bytes)),
        table(
            kShape,
            [this](std::uint64_t offset, base::MutableBytes buffer) {
              if (offset > file.size() || file.size() - offset < buffer.size()) return false;
              std::memcpy(buffer.data(), file.data() + offset, buffer.size());
              return true;
            },
            file.size(), blocks) {}
  std::vector<std::uint32_t> find(std::uint64_t key) {
    std::vector<std::uint32_t> values;
    table.find(key_of(key), [&](base::Bytes bytes) { values.push_back(value_of(bytes)); });
    return values;
  }
};

base::Category failure(const base::Buffer& file) {
  try {
    Reader reader(file);
    for (std::uint64_t i = 0; i < reader.table.count(); ++i) (void)reader.table.record(i);
    for (std::uint64_t key = 0; key < 2000; ++key) (void)reader.find(key);
  } catch (const base::Error& error) {
    return error.category();
  }
  return base::Category::internal;
}

std::vector<std::uint32_t> find(TableSet& set, std::uint64_t key) {
  std::vector<std::uint32_t> values;
  set.find(key_of(key), [&](base::Bytes bytes) { values.push_back(value_of(bytes)); });
  return values;
}

std::vector<std::pair<std::uint64_t, std::uint32_t>> list(TableSet& set, std::uint64_t from = 0) {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> rows;
  set.visit_from(key_of(from), [&](base::Bytes bytes) {
    rows.emplace_back(__builtin_bswap64(base::load_le<std::uint64_t>(bytes.data())), value_of(bytes));
    return true;
  });
  return rows;
}

void add(TableSet& set, const std::vector<std::pair<std::uint64_t, std::uint32_t>>& rows,
         const formats::TableMerge& merge = {}, std::string_view extra = {}) {
  base::Buffer bytes;
  for (const auto& [key, value] : rows) base::append(bytes, record(key, value));
  set.add(bytes, base::as_bytes(extra), merge);
}

base::UniqueFd open(const tests::TempDir& dir) {
  return base::open_directory(AT_FDCWD, dir.path());
}

std::size_t tables_in(const tests::TempDir& dir) {
  return base::list_directory(open(dir).get()).size() - 1;  // and the list
}

}  // namespace

TEST_CASE("every key that was added is found, with all its records, and no other", "[table]") {
  const auto count = GENERATE(std::size_t{0}, 1, 2, 203, 204, 205, 407, 408, 5000);
  std::vector<std::pair<std::uint64_t, std::uint32_t>> rows;
  for (std::uint32_t i = 0; i < count; ++i) rows.emplace_back(i / 3 * 10, i);  // three of each key
  Reader reader(write(rows, "beside"));
  CHECK(base::as_chars(reader.table.extra()) == "beside");
  CHECK(reader.table.count() == count);
  for (std::uint64_t key = 0; key < count * 4 + 20; ++key) {
    std::vector<std::uint32_t> want;
    for (const auto& [there, value] : rows)
      if (there == key) want.push_back(value);
    REQUIRE(reader.find(key) == want);
  }
}

TEST_CASE("one key may fill many blocks", "[table]") {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> rows = {{1, 0}};
  for (std::uint32_t i = 0; i < 1000; ++i) rows.emplace_back(7, i);
  rows.emplace_back(9, 1);
  Reader reader(write(rows));
  CHECK(reader.find(7).size() == 1000);
  CHECK(reader.find(7).front() == 0);
  CHECK(reader.find(1).size() == 1);
  CHECK(reader.find(9) == std::vector<std::uint32_t>{1});
  CHECK(reader.table.lower_bound(key_of(8)) == 1001);
  CHECK(reader.table.lower_bound(key_of(10)) == 1002);
}

TEST_CASE("the filter turns away nearly all keys that are not there without a look at records", "[table]") {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> rows;
  for (std::uint32_t i = 0; i < 20000; ++i) rows.emplace_back(i * 2, i);
  const auto file = write(rows);
  std::size_t reads = 0, passed = 0;
  TableBlocks blocks;
  Table table(
      kShape,
      [&](std::uint64_t offset, base::MutableBytes buffer) {
        if (offset / formats::kTableBlock < (20000 + 203) / 204) ++reads;  // a block of records
        std::memcpy(buffer.data(), file.data() + offset, buffer.size());
        return true;
      },
      file.size(), blocks);
  for (std::uint64_t key = 1; key < 40000; key += 2) {
    const auto before = reads;
    table.find(key_of(key), [](base::Bytes) { FAIL("found what is not there"); });
    passed += reads > before ? 1 : 0;
  }
  CHECK(reads < 98);  // with all of them known, no block is read twice
  INFO(passed);
}

TEST_CASE("a flipped bit, a cut and exchanged blocks are noticed", "[table]") {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> rows;
  for (std::uint32_t i = 0; i < 1000; ++i) rows.emplace_back(i, i);
  const auto good = write(rows, "x");
  REQUIRE(failure(good) == base::Category::internal);
  for (std::size_t at = 0; at < good.size(); at += 97) {
    auto bad = good;
    bad[at] ^= std::byte{4};
    CHECK(failure(bad) == base::Category::corrupt);
  }
  for (const std::size_t cut : {std::size_t{1}, formats::kTableBlock, good.size() - 4096, good.size()})
    CHECK(failure(base::Buffer(good.begin(), good.end() - static_cast<std::ptrdiff_t>(cut))) ==
          base::Category::corrupt);
  auto exchanged = good;
  std::swap_ranges(exchanged.begin(), exchanged.begin() + 4096, exchanged.begin() + 4096);
  CHECK(failure(exchanged) == base::Category::corrupt);
}

TEST_CASE("a table whose last block lies is not believed", "[table]") {
  const auto good = write({{1, 1}, {2, 2}}, "x");
  // Offsets in the last block: 0 magic, 8 version, 12 kind, 20 and 24 sizes, 28 records, 36 cells, 44 extra.
  const auto message = [&](std::size_t at, std::uint64_t value, std::size_t size) {
    auto bytes = good;
    auto* block = bytes.data() + bytes.size() - formats::kTableBlock;
    std::memcpy(block + at, &value, size);
    const auto guarded = formats::kTableBlock - 8;
    base::store_le(block + guarded,
                   XXH3_64bits_withSeed(block, guarded, bytes.size() / formats::kTableBlock - 1));
    return tests::message_of([&] { const Reader reader(bytes); });
  };
  for (const auto at : {0U, 8U, 12U, 20U, 24U})
    CHECK(message(at, 9, 1) == "table: of another kind or version");
  for (const auto at : {28U, 36U, 44U}) CHECK(message(at, good.size() + 1, 8) == "table: impossible counts");
  CHECK(message(36, 0, 8) == "table: impossible counts");
  CHECK(message(28, 300, 8) == "table: sections do not fill the file");
  CHECK(message(36, 300, 8) == "table: sections do not fill the file");
  CHECK(message(44, 5000, 8) == "table: sections do not fill the file");
}

TEST_CASE("a table that ends while it is read is damaged", "[table]") {
  const auto good = write({{1, 1}, {2, 2}}, "x");
  TableBlocks blocks;
  CHECK(tests::message_of([&] {
          const Table table(
              kShape, [](std::uint64_t, base::MutableBytes) { return false; }, good.size(), blocks);
        }) == "table: cut off");
}

TEST_CASE("a set of tables holds what was added, in few tables", "[table]") {
  const tests::TempDir dir;
  const bool on_disk = GENERATE(true, false);
  auto writer = std::make_unique<TableSet>(kShape, on_disk ? std::optional(open(dir)) : std::nullopt);
  std::mt19937_64 random(5);
  std::multimap<std::uint64_t, std::uint32_t> model;
  for (std::uint32_t round = 0; round < 60; ++round) {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> rows;
    for (std::uint32_t i = 0; i < 1 + round % 7 * 30; ++i)
      rows.emplace_back(random() % 3000, round * 1000 + i);
    std::sort(rows.begin(), rows.end());
    add(*writer, rows);
    model.insert(rows.begin(), rows.end());
  }
  if (on_disk) {
    CHECK(tables_in(dir) <= 8);
    writer = std::make_unique<TableSet>(kShape, open(dir));
  }
  auto& set = *writer;
  for (std::uint64_t key = 0; key < 3000; ++key) {
    auto found = find(set, key);
    std::sort(found.begin(), found.end());
    std::vector<std::uint32_t> want;
    for (auto [at, end] = model.equal_range(key); at != end; ++at) want.push_back(at->second);
    std::sort(want.begin(), want.end());
    REQUIRE(found == want);
  }
  auto rows = list(set, 1000);
  CHECK(std::is_sorted(rows.begin(), rows.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; }));
  CHECK(static_cast<std::ptrdiff_t>(rows.size()) == std::distance(model.lower_bound(1000), model.end()));
}

TEST_CASE("of records of one key the newest comes first, and alone after a merge that says so", "[table]") {
  TableSet set(kShape, std::nullopt);
  const formats::TableMerge newest{true, {}, {}};
  for (std::uint32_t i = 0; i < 10; ++i) {
    add(set, {{5, i}, {6 + i, 0}}, newest);
    CHECK(find(set, 5).front() == i);
  }
  add(set, {{1, 0}, {2, 0}, {3, 0}, {5, 77}, {8, 1}, {9, 1}, {10, 1}, {11, 1}, {12, 1}}, newest);
  CHECK(find(set, 5) == std::vector<std::uint32_t>{77});
}

TEST_CASE("a merge keeps what it is told to keep and tidies what is beside", "[table]") {
  TableSet set(kShape, std::nullopt);
  add(set, {{1, 1}, {2, 2}, {3, 3}}, {}, "ab");
  add(set, {{4, 4}, {5, 5}},
      {false, [](base::Bytes row) { return value_of(row) % 2 == 1; },
       [](base::Bytes all) {
         CHECK(base::as_chars(all) == "abcd");
         const auto kept = base::as_bytes("bd");
         return base::Buffer(kept.begin(), kept.end());
       }},
      "cd");
  CHECK(list(set) == std::vector<std::pair<std::uint64_t, std::uint32_t>>{{1, 1}, {3, 3}, {5, 5}});
  REQUIRE(set.extras().size() == 1);
  CHECK(base::as_chars(set.extras()[0]) == "bd");
}

TEST_CASE("what one adds another sees when it looks again, and reads what it had until then", "[table]") {
  const tests::TempDir dir;
  TableSet one(kShape, open(dir)), other(kShape, open(dir));
  add(one, {{1, 1}});
  other.load();
  CHECK(find(other, 1) == std::vector<std::uint32_t>{1});
  add(one, {{2, 2}, {3, 3}});  // merges the first away
  CHECK(find(other, 1) == std::vector<std::uint32_t>{1});
  CHECK(find(other, 2).empty());
  other.load();
  CHECK(list(other).size() == 3);
  CHECK(tables_in(dir) == 1);
}

TEST_CASE("tables that are gone or damaged are as if never added, and the next add clears up", "[table]") {
  const tests::TempDir dir;
  {
    TableSet set(kShape, open(dir));
    std::vector<std::pair<std::uint64_t, std::uint32_t>> many;
    for (std::uint32_t i = 0; i < 1000; ++i) many.emplace_back(i, i);
    add(set, many);
    add(set, {{5000, 1}});
  }
  const auto names = TableSet::read_list(open(dir).get());
  REQUIRE(names.size() == 2);
  SECTION("gone") {
    base::remove_tree(open(dir).get(), names[0]);
  }
  SECTION("cut") {
    base::remove_tree(open(dir).get(), names[0]);
    tests::write_file(dir / names[0], tests::random_bytes(8192, 1));
  }
  SECTION("a directory") {
    base::remove_tree(open(dir).get(), names[0]);
    base::make_directories(dir / names[0]);
  }
  SECTION("the list is gone") {
    base::remove_tree(open(dir).get(), TableSet::kList);
  }
  SECTION("the list says nonsense") {
    tests::write_file(dir / TableSet::kList, tests::random_bytes(500, 1));
  }
  TableSet set(kShape, open(dir));
  CHECK(find(set, 5).empty());
  add(set, {{7, 9}});
  CHECK(find(set, 7) == std::vector<std::uint32_t>{9});
  CHECK(TableSet(kShape, open(dir)).count() == set.count());
  CHECK(tables_in(dir) - TableSet::read_list(open(dir).get()).size() <= 1);  // a directory stays
}
