// What is published beside the packs: maps in a reader's order, the list of packs, and packs that roll over.
#include "vat/maps.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <set>

#include "formats/compression/zstd.h"
#include "formats/map/map.h"
#include "formats/text/manifest.h"
#include "formats/text/recipe.h"
#include "tests/vat/test_vat.h"
#include "vat/content.h"
#include "vat/ingest.h"
#include "vat/internal/plan.h"

using base::ObjectId;
using tests::TestVat;

namespace {

struct Added {
  vat::Ingested content;
  base::Buffer bytes;
  [[nodiscard]] vat::Root root() const { return {std::nullopt, std::nullopt, content.blob, content.recipe}; }
};

/// Content of many chunks with a hole in it, in packs of at most `pack_size` bytes.
Added add_large(TestVat& store, std::uint64_t seed, const vat::AddOptions& options = {}) {
  Added added;
  added.bytes = tests::random_bytes(400000, seed);
  added.bytes.resize(added.bytes.size() + 200000);
  base::append(added.bytes, tests::random_bytes(300000, seed + 1));
  const tests::TempDir dir;
  tests::write_file(dir / "f", added.bytes);
  const auto fd = base::open_at(AT_FDCWD, dir / "f", O_RDONLY);
  added.content = vat::ingest_stream(*store, store->parameters(), options, fd.get(), {});
  REQUIRE(added.content.recipe);
  return added;
}

std::string map_path(const TestVat& store, const ObjectId& root) {
  return store.path() + "/cache/map/" + root.hex().substr(0, 2) + "/" + root.hex().substr(2) + ".zst";
}

/// The blobs a map leads to, decoded from the pack files as a client of a static host would.
std::vector<ObjectId> follow(const TestVat& store, const ObjectId& root) {
  std::vector<ObjectId> ids;
  const auto file = tests::read_small_file(map_path(store, root));
  (void)formats::read_map(
      base::as_bytes(file), base::ObjectFormat::sha256, root, [&](const formats::MapRun& run) {
        REQUIRE_FALSE(run.pack.empty());
        const auto pack = base::open_at(AT_FDCWD, store.pack_path(run.pack + ".zst"), O_RDONLY);
        base::Buffer bytes(run.group.size);
        REQUIRE(base::read_exact_at(pack.get(), run.group.offset, bytes));
        formats::ZstdDecompressor decompressor;
        const auto group = formats::decode_group(bytes, decompressor);
        REQUIRE(run.first + run.count <= group.blobs.size());
        for (std::uint32_t i = 0; i < run.count; ++i)
          ids.push_back(base::hash_blob(base::ObjectFormat::sha256, group.blob(run.first + i)));
      });
  return ids;
}

/// Recipe and chunks, in the order in which a reader wants them, each once.
std::vector<ObjectId> wanted(TestVat& store, const ObjectId& recipe) {
  std::vector<ObjectId> ids{recipe};
  std::set<ObjectId> seen{recipe};
  formats::RecipeReader reader(store->read(recipe), base::ObjectFormat::sha256,
                               [&](const ObjectId& id) { return store->read(id); });
  for (formats::RecipeItem item; reader.next(item);)
    if (item.type == formats::RecipeItem::Type::chunk && seen.insert(item.id).second) ids.push_back(item.id);
  return ids;
}

std::vector<std::string> damaged_cache(TestVat& store, bool repair) {
  std::vector<std::string> files;
  vat::check_cache(*store, repair, [&](const std::string& file, const std::string&, bool repaired) {
    CHECK(repaired == repair);
    files.push_back(file);
  });
  return files;
}

std::string pack_list(const TestVat& store) {
  std::string text;
  for (const auto& name : store.packs()) text += name.substr(0, 64) + "\n";
  return text;
}

}  // namespace

TEST_CASE("a map leads to every blob of its root, in order", "[vat][maps]") {
  TestVat store;
  const auto one = add_large(store, 1);
  const auto other = add_large(store, 1);  // the same again: nothing new, the same map
  CHECK(other.content.blob == one.content.blob);
  vat::write_map(*store, one.root());
  CHECK(follow(store, one.content.blob) == wanted(store, *one.content.recipe));
  CHECK(wanted(store, *one.content.recipe).size() > 20);
  CHECK(tests::read_file(store.path() + "/cache/packs") == pack_list(store));
  CHECK(damaged_cache(store, false).empty());
}

TEST_CASE("content over several packs comes back, and its map names them all", "[vat][maps]") {
  std::vector<std::string> packs[2];
  for (const unsigned threads : {1U, 8U}) {
    TestVat store;
    const auto added = add_large(store, 5, {threads, formats::kDefaultLevel, 100000});
    packs[threads / 8] = store.packs();
    CHECK(store.packs().size() > 2);
    for (const auto& name : store.packs())
      CHECK(tests::read_small_file(store.pack_path(name)).size() < 100000 + (std::size_t{1} << 20));
    base::Buffer back;
    vat::stream_content(*store, added.content.blob, {},
                        [&](base::Bytes bytes) { base::append(back, bytes); });
    CHECK(back == added.bytes);
    vat::write_map(*store, added.root());
    CHECK(follow(store, added.content.blob) == wanted(store, *added.content.recipe));
    store.reopen();
    vat::stream_content(*store, added.content.blob, {}, [](base::Bytes) {});
  }
  CHECK(packs[0] == packs[1]);
}

TEST_CASE("the cache is made anew from primary", "[vat][maps]") {
  TestVat store;
  const auto one = add_large(store, 1), two = add_large(store, 7);
  for (const auto* added : {&one, &two}) vat::write_map(*store, added->root());
  const auto before = tests::read_small_file(map_path(store, two.content.blob));
  store.close();
  REQUIRE(std::system(("rm -r " + store.path() + "/cache " + store.path() + "/local").c_str()) == 0);
  store.reopen();
  const auto summary = vat::rebuild(*store);
  CHECK(summary.packs == store.packs().size());
  CHECK(summary.maps >= 2);
  CHECK(tests::read_small_file(map_path(store, two.content.blob)) == before);
  CHECK(tests::read_file(store.path() + "/cache/packs") == pack_list(store));
  CHECK(damaged_cache(store, false).empty());
}

TEST_CASE("making the index anew takes it from nobody who has it open", "[vat][maps]") {
  TestVat store;
  const auto added = add_large(store, 1);
  std::vector<std::string> notes;
  const auto other =
      vat::Vat::open(store.path(), {{}, [&](const std::string& note) { notes.push_back(note); }});
  const auto inode = [&] {
    struct stat info;
    REQUIRE(::stat((store.path() + "/local/index.db").c_str(), &info) == 0);
    return info.st_ino;
  };
  const auto before = inode();
  (void)vat::rebuild(*store);
  CHECK(inode() == before);
  CHECK(other->find_recipes(added.content.blob).size() == 1);
  CHECK(other->find(*added.content.recipe));
  CHECK(notes.empty());
}

TEST_CASE("a damaged cache is named and put right", "[vat][maps]") {
  TestVat store;
  const auto one = add_large(store, 1), two = add_large(store, 7);
  for (const auto* added : {&one, &two}) vat::write_map(*store, added->root());
  const auto map = map_path(store, one.content.blob);
  SECTION("a flipped bit") {
    TestVat::flip(map, 20);
  }
  SECTION("cut off") {
    TestVat::edit(map, [](std::string& bytes) { bytes.resize(bytes.size() / 2); });
  }
  SECTION("nothing left") {
    TestVat::edit(map, [](std::string& bytes) { bytes.clear(); });
  }
  SECTION("the map of another root") {
    const auto other = tests::read_small_file(map_path(store, two.content.blob));
    TestVat::edit(map, [&](std::string& bytes) { bytes = other; });
  }
  const auto file = map.substr(store.path().size() + 1);
  tests::write_file(store.path() + "/cache/packs", base::as_bytes(std::string_view("nonsense\n")));
  const std::vector<std::string> both{"cache/packs", file};
  CHECK(damaged_cache(store, false) == both);
  CHECK(damaged_cache(store, true) == both);
  CHECK(damaged_cache(store, false).empty());
  CHECK(tests::read_file(store.path() + "/cache/packs") == pack_list(store));
  vat::write_map(*store, one.root());
  CHECK(follow(store, one.content.blob) == wanted(store, *one.content.recipe));
}

TEST_CASE("a table of the index that rotted is named, and made anew", "[vat][maps]") {
  TestVat store;
  const auto added = add_large(store, 1);
  vat::write_map(*store, added.root());
  store.reopen();
  (void)store->find(added.content.blob);
  const auto tables = store.path() + "/cache/index/";
  const auto table = tables + tests::read_small_file(tables + "list").substr(0, 64);
  TestVat::flip(table, 4096);  // in what was read already
  const std::vector<std::string> one{table.substr(store.path().size() + 1)};
  CHECK(damaged_cache(store, false) == one);
  CHECK(damaged_cache(store, true) == one);
  store.reopen();
  CHECK(damaged_cache(store, false).empty());
  CHECK(follow(store, added.content.blob) == wanted(store, *added.content.recipe));
}

TEST_CASE("a vat whose cache cannot be written does without", "[vat][maps]") {
  TestVat store;
  const auto added = add_large(store, 1);
  REQUIRE(std::system(("rm -r " + store.path() + "/cache").c_str()) == 0);
  tests::write_file(store.path() + "/cache", {});
  vat::write_map(*store, added.root());
  CHECK(damaged_cache(store, false).empty());
  CHECK(tests::read_file(store.path() + "/cache").empty());
}

TEST_CASE("a damaged map of a tree is made anew as that", "[vat][maps]") {
  TestVat store;
  ObjectId manifest;
  {
    vat::Adder adder(*store);
    formats::ManifestWriter writer(store->object_format(), adder.put_text(formats::BlobKind::manifest));
    formats::Row top;
    top.path = ".";
    top.type = formats::Row::Type::directory;
    writer.add(top);
    manifest = writer.finish();
    (void)adder.finish();
  }
  const vat::Root root{manifest, std::nullopt, std::nullopt, std::nullopt};
  vat::write_map(*store, root);
  const auto file =
      store.path() + "/cache/map/" + manifest.hex().substr(0, 2) + "/" + manifest.hex().substr(2) + ".zst";
  const auto sound = tests::read_small_file(file);
  tests::write_file(file, base::as_bytes("nonsense"));
  vat::refresh_cache(*store);
  CHECK(tests::read_small_file(file) == sound);
}

TEST_CASE("a map of more runs than memory is made for is refused", "[vat][maps]") {
  const auto root = base::hash_blob(base::ObjectFormat::sha256, {});
  std::string text = "map 2 sha256 " + root.hex() + " -\ndata\n";
  const std::size_t head = text.size();
  const auto read = [&](std::size_t runs) {
    text.resize(head);
    for (std::size_t i = 0; i < runs; ++i) text += "- 1\n";
    base::Buffer file;
    (void)formats::ZstdCompressor().compress(base::as_bytes(text), file);
    return vat::internal::RootMap(file, base::ObjectFormat::sha256, root).detail().has_value();
  };
  constexpr std::size_t kMost = std::size_t{1} << 21;
  (void)read(kMost);
  CHECK(tests::message_of([&] { (void)read(kMost + 1); }) == "map: more runs than fit into memory");
}
