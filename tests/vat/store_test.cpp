// What every source of blobs promises, and what a vat does with hand-filled files.
#include <sys/stat.h>
#include <unistd.h>
#include <atomic>
#include <thread>

#include <catch2/catch.hpp>
#include <functional>
#include <set>

#include "formats/base/error.h"
#include "tests/vat/test_vat.h"

using base::as_bytes;
using base::Category;
using base::ObjectFormat;
using tests::TestVat;

namespace {

/// Two vats to build a source from; blobs go into the first.
struct Setup {
  explicit Setup(ObjectFormat format) : first(format), second(format) {}
  TestVat first, second;
};
struct Backend {
  const char* name;
  std::shared_ptr<vat::BlobSource> (*make)(Setup&);
};
const Backend kBackends[] = {
    {"vat", [](Setup& setup) -> std::shared_ptr<vat::BlobSource> { return setup.first.shared(); }},
    {"set of one",
     [](Setup& setup) -> std::shared_ptr<vat::BlobSource> {
       return std::make_shared<vat::SourceSet>(
           std::vector<std::shared_ptr<vat::BlobSource>>{setup.first.shared()});
     }},
    {"set whose second vat has it", [](Setup& setup) -> std::shared_ptr<vat::BlobSource> {
       return std::make_shared<vat::SourceSet>(
           std::vector<std::shared_ptr<vat::BlobSource>>{setup.second.shared(), setup.first.shared()});
     }}};

std::string loose_path(const TestVat& store, const std::string& hex, const std::string& suffix) {
  const auto directory = store.path() + "/primary/" + hex.substr(0, 2);
  base::make_directories(directory);
  return directory + "/" + hex.substr(2) + ".blob" + suffix;
}

bool run(const std::string& command) {
  return std::system(command.c_str()) == 0;
}

}  // namespace

TEST_CASE("a source names blobs exactly as git does", "[vat][conformance]") {
  const auto backend = GENERATE(from_range(std::begin(kBackends), std::end(kBackends)));
  const auto format = GENERATE(ObjectFormat::sha1, ObjectFormat::sha256);
  INFO(backend.name);
  Setup setup(format);
  (void)setup.first.add_pack({tests::to_buffer(""), tests::to_buffer("hello\n")});
  const auto source = backend.make(setup);
  CHECK(source->object_format() == format);
  // Golden values: `git hash-object --stdin` of "" and of "hello\n" in either object format.
  const bool sha1 = format == ObjectFormat::sha1;
  const auto empty = base::ObjectId::parse(
      format, sha1 ? "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
                   : "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813");
  const auto hello = base::ObjectId::parse(
      format, sha1 ? "ce013625030ba8dba906f756967f9e9ca394464a"
                   : "2cf8d83d9ee29543b34a87727421fdecb7e3f3a183d337639025de576db9ebb4");
  REQUIRE(empty);
  REQUIRE(hello);
  CHECK(tests::holds(*source, *empty, {}));
  CHECK(tests::holds(*source, *hello, as_bytes("hello\n")));
}

TEST_CASE("an absent blob is not found", "[vat][conformance]") {
  const auto backend = GENERATE(from_range(std::begin(kBackends), std::end(kBackends)));
  INFO(backend.name);
  Setup setup(ObjectFormat::sha256);
  const auto source = backend.make(setup);
  const auto id = setup.first.id_of(as_bytes("absent"));
  CHECK_FALSE(source->find(id));
  CHECK(tests::category_of([&] { (void)source->read(id); }) == Category::not_found);
  CHECK(tests::category_of([&] { source->stream(id, [](base::Bytes) {}); }) == Category::not_found);
  CHECK(source->find_recipes(id).empty());
  CHECK_FALSE(source->find(base::ObjectId()));
}

TEST_CASE("a blob put twice is stored once", "[vat][conformance]") {
  TestVat store;
  const auto content = tests::random_bytes(5000, 1);
  const auto id = store.add(content);
  vat::Adder again(*store);
  CHECK_FALSE(again.put(id, formats::BlobKind::data, vat::Grouping::single, content));
  CHECK_FALSE(again.put(id, formats::BlobKind::data, vat::Grouping::chunk, content));
  const auto other = tests::random_bytes(9, 2);
  CHECK(again.put(store.id_of(other), formats::BlobKind::data, vat::Grouping::chunk, other));
  CHECK_FALSE(again.put(store.id_of(other), formats::BlobKind::data, vat::Grouping::text, other));
  const auto summary = again.finish();
  CHECK(summary.new_blobs == 1);
  CHECK(summary.new_size == 9);
  CHECK(store.packs().size() == 2);
  vat::Adder third(*store);
  CHECK(third.finish().packs.empty());
  CHECK(store.packs().size() == 2);
}

TEST_CASE("blobs of every size up to the largest come back", "[vat][conformance]") {
  TestVat store;
  for (const std::size_t size : {std::size_t{1}, std::size_t{65536}, formats::kMaxPackedBlob}) {
    const auto content = tests::random_bytes(size, size);
    CHECK(tests::holds(*store, store.add(content), content));
    store.reopen();
    CHECK(tests::holds(*store, store.id_of(content), content));
  }
  vat::Adder adder(*store);
  const base::Buffer large(formats::kMaxPackedBlob + 1);
  CHECK(tests::category_of([&] { (void)store.put(adder, large); }) == Category::internal);
}

TEST_CASE("sources of different object formats do not mix", "[vat][conformance]") {
  const TestVat sha1(ObjectFormat::sha1), sha256;
  CHECK(tests::category_of([&] {
          vat::SourceSet(std::vector<std::shared_ptr<vat::BlobSource>>{
              const_cast<TestVat&>(sha1).shared(), const_cast<TestVat&>(sha256).shared()});
        }) == Category::usage);
  CHECK(tests::category_of([] { vat::SourceSet({}); }) == Category::usage);
}

TEST_CASE("a set takes from another source what one has lost", "[vat][conformance]") {
  Setup setup(ObjectFormat::sha256);
  const auto content = tests::random_bytes(3000, 1);
  const auto name = setup.first.add_pack({content});
  (void)setup.second.add_pack({content});
  const auto id = setup.first.id_of(content);
  setup.first.damage(name, id);
  vat::SourceSet both({setup.first.shared(), setup.second.shared()});
  CHECK(tests::holds(both, id, content));
  setup.second.damage(setup.second.packs()[0], id);
  setup.second.reopen();
  vat::SourceSet none({setup.first.shared(), setup.second.shared()});
  CHECK(tests::category_of([&] { (void)none.read(id); }) == Category::corrupt);
  vat::SourceSet reversed({setup.second.shared(), setup.first.shared()});
  CHECK(tests::category_of([&] { (void)reversed.read(id); }) == Category::corrupt);
}

TEST_CASE("hand-filled blobs are read in every codec", "[vat][loose]") {
  const auto format = GENERATE(ObjectFormat::sha1, ObjectFormat::sha256);
  struct Codec {
    const char* suffix;
    const char* tool;
  };
  const auto codec = GENERATE(Codec{"", "cat"}, Codec{".gz", "gzip -c"}, Codec{".bz2", "bzip2 -c"},
                              Codec{".xz", "xz -c"}, Codec{".zst", "zstd -qc"});
  if (!run("command -v " + std::string(codec.tool).substr(0, std::string(codec.tool).find(' ')) +
           " >/dev/null 2>&1")) {
    WARN("SKIPPED: no " << codec.tool);
    return;
  }
  INFO(codec.suffix);
  TestVat store(format);
  const tests::TempDir dir;
  for (const std::size_t size : {std::size_t{0}, std::size_t{100000}}) {
    const auto content = tests::random_bytes(size, 3);
    const auto id = store.id_of(content);
    tests::write_file(dir / "f", content);
    const auto path = loose_path(store, id.hex(), codec.suffix);
    REQUIRE(run(std::string(codec.tool) + " < " + dir / "f" + " > " + path));
    CHECK(tests::holds(*store, id, content));
    store.reopen();
    CHECK(tests::holds(*store, id, content));
    vat::Adder adder(*store);
    CHECK_FALSE(adder.put(id, formats::BlobKind::data, vat::Grouping::single, content));
    std::size_t listed = 0;
    store->list(
        [&](const auto& there, const vat::StoredBlob& blob) { listed += there == id && blob.size == size; },
        [](const auto&, const auto&) {});
    CHECK(listed == 1);
  }
}

TEST_CASE("a hand-filled file that is not what its name says is no copy", "[vat][loose]") {
  TestVat store;
  const bool old = GENERATE(true, false);
  const auto content = tests::random_bytes(5000, 1);
  const auto id = store.id_of(content);
  const auto path = loose_path(store, id.hex(), "");
  auto wrong = content;
  wrong[77] ^= std::byte{1};
  tests::write_file(path, wrong);
  if (old) TestVat::make_old(path);
  CHECK_FALSE(store->find(id));
  CHECK(tests::category_of([&] { (void)store->read(id); }) == Category::corrupt);
  CHECK(tests::category_of([&] { store->stream(id, [](base::Bytes) { FAIL("bytes"); }); }) ==
        Category::corrupt);
  // A copy that stock tools cannot read either.
  tests::write_file(loose_path(store, id.hex(), ".gz"), content);
  CHECK(tests::category_of([&] { (void)store->read(id); }) == Category::corrupt);
  // Then the right bytes arrive, beside or in place.
  tests::write_file(path, content);
  CHECK(tests::holds(*store, id, content));
  CHECK(store.add(content) == id);
  CHECK(store.packs().empty());
}

TEST_CASE("a hand-filled file that was known and rots is never taken for good", "[vat][loose]") {
  TestVat store;
  const auto content = tests::random_bytes(GENERATE(std::size_t{5000}, formats::kMaxPackedBlob + 5000), 1);
  const auto id = store.id_of(content);
  const auto path = loose_path(store, id.hex(), "");
  tests::write_file(path, content);
  CHECK(store->find(id));
  TestVat::flip(path, 99);
  base::Buffer streamed;
  const auto sink = [&](base::Bytes bytes) { base::append(streamed, bytes); };
  CHECK(tests::category_of([&] { store->stream(id, sink); }) == Category::corrupt);
  CHECK(streamed.empty());
  // Another copy helps.
  tests::write_file(path + ".gz.tmp", content);
  REQUIRE(run("gzip -1 -c " + path + ".gz.tmp > " + path + ".gz"));
  REQUIRE(::unlink((path + ".gz.tmp").c_str()) == 0);
  store->stream(id, sink);
  CHECK(streamed == content);
}

TEST_CASE("a hand-filled blob too large for memory is streamed, and refused by read", "[vat][loose]") {
  TestVat store;
  const auto content = tests::random_bytes(formats::kMaxPackedBlob + 1, 1);
  const auto id = store.id_of(content);
  tests::write_file(loose_path(store, id.hex(), ""), content);
  CHECK(store->find(id)->size == content.size());
  CHECK(tests::category_of([&] { (void)store->read(id); }) == Category::refused);
  base::Buffer streamed;
  store->stream(id, [&](base::Bytes bytes) { base::append(streamed, bytes); });
  CHECK(streamed == content);
}

TEST_CASE("names outside the grammar are ignored", "[vat][loose]") {
  TestVat store;
  const auto content = tests::random_bytes(100, 1);
  const auto hex = store.id_of(content).hex();
  const auto primary = store.path() + "/primary/";
  const auto rest = hex.substr(2);
  base::make_directories(primary + hex.substr(0, 2));
  base::make_directories(primary + "ZZ");
  base::make_directories(primary + "abc");
  base::make_directories(primary + hex.substr(0, 2) + "/" + rest + ".blob.zst");
  for (const std::string& name : std::vector<std::string>{
           hex.substr(0, 2) + "/" + rest, hex.substr(0, 2) + "/" + rest + ".blob.lz4",
           hex.substr(0, 2) + "/" + rest + ".blob.gz~", hex.substr(0, 2) + "/." + rest + ".blob",
           hex.substr(0, 2) + "/" + rest + "0.blob", hex.substr(0, 2) + "/" + rest.substr(1) + ".blob",
           "ZZ/" + rest + ".blob", hex + ".blob", "pack/" + hex + ".zst.part", "pack/x.zst", "pack/" + hex,
           std::string("pack/.hidden"), std::string("README"), std::string("00")})
    tests::write_file(primary + name, content);
  base::make_directories(primary + "pack/" + hex + ".zst");  // a directory with the name of a pack
  store.reopen();
  CHECK_FALSE(store->find(store.id_of(content)));
  std::size_t listed = 0;
  store->list([&](const auto&, const auto&) { ++listed; }, [&](const auto&, const auto&) { ++listed; });
  CHECK(listed == 0);
  CHECK(tests::category_of([&] { (void)store->read(store.id_of(content)); }) == Category::not_found);
}

TEST_CASE("ids are listed in order, each once, wherever copies lie", "[vat]") {
  TestVat store;
  std::set<base::ObjectId> wanted;
  std::vector<base::Buffer> many;
  for (std::uint64_t i = 0; i < 300; ++i) {
    many.push_back(tests::random_bytes(10 + i, i));
    wanted.insert(store.id_of(many.back()));
    if (i % 3 == 0) tests::write_file(loose_path(store, store.id_of(many.back()).hex(), ""), many.back());
  }
  {
    // All go into the pack: no hand-filled file is there while they are put.
    TestVat other;
    std::vector<base::Buffer> half(many.begin() + 100, many.end());
    const auto name = other.add_pack(half);
    REQUIRE(run("cp " + other.pack_path(name) + " " + store.pack_path(name)));
  }
  {
    TestVat other;
    std::vector<base::Buffer> half(many.begin(), many.begin() + 200);
    const auto name = other.add_pack(half);
    REQUIRE(run("cp " + other.pack_path(name) + " " + store.pack_path(name)));
  }
  store.reopen();
  std::vector<base::ObjectId> listed;
  store->list([&](const auto& id, const auto&) { listed.push_back(id); }, [](const auto&, const auto&) {});
  CHECK(listed == std::vector<base::ObjectId>(wanted.begin(), wanted.end()));
}

TEST_CASE("several that make one vat at once all get it", "[store]") {
  const tests::TempDir dir;
  std::atomic<int> failures = 0;
  for (int round = 0; round < 30; ++round) {
    const auto path = dir / ("v" + std::to_string(round));
    std::vector<std::thread> makers;
    for (int i = 0; i < 8; ++i)
      makers.emplace_back([&] {
        try {
          vat::Vat::create(path, base::ObjectFormat::sha256, chunker::make_parameters(16));
          (void)vat::Vat::open(path, {});
        } catch (const base::Error&) {
          ++failures;
        }
      });
    for (auto& maker : makers) maker.join();
  }
  CHECK(failures == 0);
}
