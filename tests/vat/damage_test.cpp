// A vat that is hurt: packs flipped, cut and taken away, an index that lies. Whatever happens, never wrong
// bytes.
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <set>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "tests/vat/test_vat.h"
#include "vat/content.h"
#include "vat/ingest.h"
#include "vat/verify.h"

using base::Category;
using base::ObjectId;
using tests::TestVat;

namespace {

std::vector<base::Buffer> some_blobs(std::uint64_t seed, std::size_t count = 3) {
  std::vector<base::Buffer> blobs;
  for (std::size_t i = 0; i < count; ++i) blobs.push_back(tests::random_bytes(3000 + i, seed * 100 + i));
  return blobs;
}

/// The first table on the list of the vat's index.
std::string first_table(TestVat& store) {
  const auto tables = store.path() + "/cache/index/";
  return tables + tests::read_small_file(tables + "list").substr(0, 64);
}

void replace(const std::string& file, const std::string& bytes) {
  base::remove_tree(AT_FDCWD, file);
  tests::write_file(file, base::as_bytes(bytes));
}

/// What reading gives: the right bytes, or an error of one of the allowed categories.
enum class Answer : std::uint8_t { right, corrupt, not_found };
Answer ask(vat::BlobSource& source, const ObjectId& id, const base::Buffer& content) {
  try {
    const auto bytes = source.read(id);
    REQUIRE(bytes == content);
    return Answer::right;
  } catch (const base::Error& error) {
    INFO(error.what());
    REQUIRE((error.category() == Category::corrupt || error.category() == Category::not_found));
    return error.category() == Category::corrupt ? Answer::corrupt : Answer::not_found;
  }
}

void run_sql(const std::string& path, const std::string& sql) {
  sqlite3* raw = nullptr;
  const int opened = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE, nullptr);
  const base::CPtr<sqlite3, sqlite3_close_v2> database{raw};
  REQUIRE(opened == SQLITE_OK);
  char* message = nullptr;
  const int done = sqlite3_exec(raw, sql.c_str(), nullptr, nullptr, &message);
  INFO(sql << ": " << (message != nullptr ? message : ""));
  REQUIRE(done == SQLITE_OK);
}

std::vector<vat::Damage> verify(TestVat& store, bool repair = false, bool quick = false) {
  vat::VerifyOptions options;
  options.threads = 2;
  options.repair = repair;
  options.quick = quick;
  std::vector<vat::Damage> damages;
  const auto summary =
      vat::verify(*store, options, [&](const vat::Damage& damage) { damages.push_back(damage); });
  CHECK(summary.damaged == damages.size());
  return damages;
}

void copy_file(const std::string& from, const std::string& to) {
  tests::write_file(to, base::as_bytes(tests::read_small_file(from)));
}

}  // namespace

TEST_CASE("a flipped byte in a group is corrupt, and adding again heals it", "[vat][damage]") {
  const bool reopen = GENERATE(true, false);
  const bool read_before = GENERATE(true, false);
  INFO("reopened " << reopen << ", read before " << read_before);
  TestVat store;
  const auto blobs = some_blobs(1);
  const auto name = store.add_pack(blobs);
  const auto id = store.id_of(blobs[1]);
  store.damage(name, id);
  if (reopen) store.reopen();
  if (read_before) {
    CHECK(ask(*store, id, blobs[1]) == Answer::corrupt);
    CHECK_FALSE(store->find(id));
    CHECK(ask(*store, id, blobs[1]) == Answer::corrupt);
  }
  CHECK(ask(*store, store.id_of(blobs[0]), blobs[0]) == Answer::right);
  CHECK(ask(*store, store.id_of(blobs[2]), blobs[2]) == Answer::right);
  if (!read_before) return;  // nobody has noticed, so nothing is to be healed yet
  CHECK_FALSE(store.notes.empty());

  SECTION("as another pack") {
    CHECK(store.add_pack({blobs[1]}) != name);
    CHECK(tests::holds(*store, id, blobs[1]));
    store.reopen();
    CHECK(tests::holds(*store, id, blobs[1]));
  }
  SECTION("as the same pack, the rest noticed too") {
    for (const std::size_t i : {0U, 2U}) {
      store.damage(name, store.id_of(blobs[i]));
      store.reopen();
      (void)ask(*store, store.id_of(blobs[i]), blobs[i]);
    }
    store.reopen();
    for (const auto& blob : blobs) CHECK(ask(*store, store.id_of(blob), blob) == Answer::corrupt);
    CHECK(store.add_pack(blobs) == name);
    for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
    store.reopen();
    for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
    CHECK(store.packs().size() == 1);
  }
}

TEST_CASE("a flipped bit anywhere in a pack gives the right bytes or none", "[vat][damage]") {
  TestVat store;
  const std::vector<base::Buffer> blobs{tests::to_buffer("hello\n"), tests::to_buffer(""),
                                        tests::to_buffer(std::string(500, 'x'))};
  const auto name = store.add_pack(blobs);
  const auto path = store.pack_path(name);
  const auto whole = tests::read_small_file(path);
  const bool keep_time = GENERATE(true, false);
  for (std::size_t at = 0; at < whole.size(); at += 5) {
    INFO("byte " << at << " of " << whole.size());
    store.close();
    REQUIRE(::chmod(path.c_str(), 0644) == 0);
    auto bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << at % 8));
    if (keep_time) {
      TestVat::edit(path, [&](std::string& there) { there = bytes; });
    } else {
      tests::write_file(path, base::as_bytes(bytes));
      TestVat::make_old(path);
    }
    store.reopen();
    for (const auto& blob : blobs) {
      const auto found = store->find(store.id_of(blob));
      if (found && !keep_time) CHECK(found->size == blob.size());
      (void)ask(*store, store.id_of(blob), blob);
    }
    CHECK_FALSE(verify(store).empty());
    store.close();
    tests::write_file(path, base::as_bytes(whole));
    base::remove_tree(AT_FDCWD, store.path() + "/local");
  }
}

TEST_CASE("a good copy is used when another is damaged", "[vat][damage]") {
  TestVat store;
  const auto shared = tests::random_bytes(4000, 1);
  const auto id = store.id_of(shared);
  std::vector<std::string> names;
  for (std::uint64_t i = 0; i < 2; ++i) {
    TestVat other;
    names.push_back(other.add_pack({shared, tests::random_bytes(100, 50 + i)}));
    copy_file(other.pack_path(names.back()), store.pack_path(names.back()));
  }
  store.reopen();
  const auto group = store.place_of(id).group;  // at the front of both
  const std::size_t bad = GENERATE(0U, 1U);
  TestVat::flip(store.pack_path(names[bad]), group.offset + group.size / 2);
  CHECK(tests::holds(*store, id, shared));
  store.reopen();
  CHECK(tests::holds(*store, id, shared));
  TestVat::flip(store.pack_path(names[1 - bad]), group.offset + group.size / 2);
  store.reopen();
  CHECK(ask(*store, id, shared) == Answer::corrupt);
  CHECK_FALSE(store->find(id));
}

TEST_CASE("a pack that loses its trailer is read by its groups", "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1);
  const auto name = store.add_pack(blobs);
  const auto last = store.place_of(store.id_of(blobs[2])).group;
  const auto trailer = last.offset + last.size;
  const auto path = store.pack_path(name);
  const std::size_t cut = GENERATE(0U, 1U, 20U, 100000U);  // 0: a flipped byte instead
  const bool old = GENERATE(true, false);
  store.close();
  REQUIRE(::chmod(path.c_str(), 0644) == 0);
  const auto size = tests::read_small_file(path).size();
  if (cut == 0) TestVat::flip(path, (trailer + size) / 2);
  REQUIRE(::truncate(path.c_str(), static_cast<off_t>(std::max(trailer, size - std::min(size, cut)))) == 0);
  if (old) TestVat::make_old(path);
  store.reopen();
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  const auto damages = verify(store);
  REQUIRE(damages.size() == 1);
  CHECK_FALSE(damages[0].id);
  CHECK(damages[0].file == "primary/pack/" + name);

  SECTION("half of its last group is gone too") {
    store.close();
    REQUIRE(::truncate(path.c_str(), static_cast<off_t>(last.offset + last.size / 2)) == 0);
    if (old) TestVat::make_old(path);
    store.reopen();
    CHECK(tests::holds(*store, store.id_of(blobs[0]), blobs[0]));
    CHECK(tests::holds(*store, store.id_of(blobs[1]), blobs[1]));
    CHECK_FALSE(store->find(store.id_of(blobs[2])));
    CHECK(ask(*store, store.id_of(blobs[2]), blobs[2]) != Answer::right);
  }
  SECTION("repair loses nothing") {
    const auto repaired = verify(store, true);
    REQUIRE(repaired.size() == 1);
    // Without a trailer that runs to the end nothing tells whether groups followed: that is no repair.
    const bool sure = cut == 0;
    CHECK(repaired[0].repaired == sure);
    for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
    CHECK(verify(store).empty() == (sure || old));  // it may still be arriving
    store.reopen();
    for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  }
}

TEST_CASE("an index that is gone, garbage or for another vat is made anew", "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1);
  (void)store.add_pack(blobs);
  const auto local = store.path() + "/local";
  const auto database = local + "/index.db";
  store.close();
  const auto good = tests::read_small_file(database);
  REQUIRE(good.size() > 4096);
  SECTION("gone") {
    base::remove_tree(AT_FDCWD, local);
  }
  SECTION("empty") {
    tests::write_file(database, {});
  }
  SECTION("garbage") {
    tests::write_file(database, tests::random_bytes(50000, 1));
  }
  SECTION("a directory") {
    base::remove_tree(AT_FDCWD, database);
    base::make_directories(database);
  }
  SECTION("local is a file") {
    base::remove_tree(AT_FDCWD, local);
    tests::write_file(local, {});
  }
  SECTION("cut") {
    tests::write_file(database, base::as_bytes(good.substr(0, good.size() / 2)));
  }
  SECTION("pages overwritten") {
    auto bytes = good;
    for (std::size_t at = 4096; at < bytes.size(); ++at) bytes[at] = static_cast<char>(at * 7);
    tests::write_file(database, base::as_bytes(bytes));
  }
  SECTION("of another schema") {
    run_sql(database, "DROP TABLE packs; CREATE TABLE packs(x)");
  }
  SECTION("of another version") {
    run_sql(database, "PRAGMA user_version=9999");
  }
  SECTION("of another vat") {
    TestVat other;
    (void)other.add_pack(some_blobs(2));
    other.close();
    copy_file(other.path() + "/local/index.db", database);
  }
  store.reopen();
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  store.lose_index();
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
}

TEST_CASE("rows of the index that lie never lead to wrong bytes", "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1, 4);
  (void)store.add_pack(blobs);
  (void)store.add_pack(some_blobs(2, 4));
  store.close();
  const auto sql = GENERATE(
      as<std::string>(), "DELETE FROM packs", "UPDATE packs SET name=x'00' || number",
      "UPDATE packs SET name=NULL", "UPDATE packs SET name='../../../../../../etc/passwd' || number",
      "UPDATE packs SET size=1", "UPDATE packs SET mtime=NULL", "UPDATE packs SET number=number+5",
      "UPDATE packs SET number=-number", "UPDATE packs SET size='x', mtime='y'",
      "UPDATE packs SET name=(SELECT 'a' || name FROM packs) WHERE number=(SELECT max(number) FROM packs)",
      "INSERT INTO damaged SELECT zeroblob(32),number,0,0 FROM packs",
      "INSERT INTO damaged SELECT 7,number,'x','y' FROM packs", "INSERT INTO damaged VALUES(x'00',-1,-1,-1)",
      "DROP TABLE damaged; CREATE TABLE damaged(id, pack, offset, position)");
  INFO(sql);
  run_sql(store.path() + "/local/index.db", sql);
  store.reopen();
  for (const auto& blob : blobs) {
    const auto id = store.id_of(blob);
    if (const auto found = store->find(id)) CHECK(found->size == blob.size());
    CHECK(ask(*store, id, blob) == Answer::right);  // the index was at fault, not the pack
    const auto found = store->find(id);
    if (found) CHECK(found->size == blob.size());
  }
  // Wherever the mess, adding again is right afterwards.
  (void)store.add(blobs[0]);
  CHECK(tests::holds(*store, store.id_of(blobs[0]), blobs[0]));
}

TEST_CASE("claims that have changed in the index are made anew before content is said to be absent",
          "[vat][damage]") {
  TestVat store;
  const auto content = tests::random_bytes(std::size_t{1} << 20, 1);
  const auto id = store.id_of(content);
  const auto file = store.path() + ".file";
  tests::write_file(file, content);
  {
    vat::Adder adder(*store);
    (void)vat::ingest_file(file, adder, store->parameters(), nullptr);
    (void)adder.finish();
  }
  REQUIRE(vat::find_content(*store, id).recipe);
  store.close();
  run_sql(store.path() + "/local/index.db",
          GENERATE(as<std::string>(), "UPDATE claims SET content=x'00' || substr(content,2)",
                   "UPDATE claims SET content=x'00'", "UPDATE claims SET recipe=content",
                   "UPDATE claims SET size=1", "UPDATE claims SET guard=guard+1"));
  store.reopen();
  CHECK(vat::find_content(*store, id).size == content.size());
  CHECK(vat::find_content(*store, id).recipe);
  store.close();
  run_sql(store.path() + "/local/index.db", "UPDATE claims SET content=x'00'");
  store.reopen();
  CHECK(tests::category_of([&] { (void)vat::find_content(*store, store.id_of(some_blobs(7)[0])); }) ==
        Category::not_found);
}

TEST_CASE("tables of the index that are damaged, cut, gone or exchanged cost nothing but time",
          "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1, 40);
  (void)store.add_pack(blobs);
  (void)store.add_pack(some_blobs(2, 4));
  store.close();
  const auto list = store.path() + "/cache/index/list";
  const auto names = tests::read_small_file(list);
  REQUIRE(names.size() % 65 == 0);
  const auto table = first_table(store);
  const auto good = tests::read_small_file(table);
  const bool open = GENERATE(false, true);  // whether the vat is open while it happens
  if (open) store.reopen();
  SECTION("a byte anywhere") {
    for (std::size_t at = 5; at < good.size(); at += 509) {
      auto bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ 0x20);
      store.close();
      replace(table, bytes);
      replace(list, names);
      store.reopen();
      for (const auto& blob : blobs) REQUIRE(tests::holds(*store, store.id_of(blob), blob));
    }
  }
  SECTION("cut") {
    replace(table, good.substr(0, good.size() - 4096));
  }
  SECTION("empty") {
    replace(table, {});
  }
  SECTION("blocks exchanged") {
    replace(table, good.substr(4096, 4096) + good.substr(0, 4096) + good.substr(8192));
  }
  SECTION("gone") {
    base::remove_tree(AT_FDCWD, table);
  }
  SECTION("all of cache is gone") {
    base::remove_tree(AT_FDCWD, store.path() + "/cache");
  }
  SECTION("the list is gone") {
    base::remove_tree(AT_FDCWD, list);
  }
  SECTION("the list is garbage") {
    replace(list, std::string(1000, 'f'));
  }
  SECTION("the list names a table twice") {
    replace(list, names + names);
  }
  SECTION("the table is a directory") {
    base::remove_tree(AT_FDCWD, table);
    base::make_directories(table);
  }
  if (!open) store.reopen();
  for (const auto& blob : blobs) {
    CHECK(store->find(store.id_of(blob)));
    CHECK(tests::holds(*store, store.id_of(blob), blob));
  }
  CHECK(store.add(blobs[0]) == store.id_of(blobs[0]));
  store.reopen();
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
}

TEST_CASE("damage that was found is not forgotten with a table of the index", "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1);
  const auto pack = store.add_pack(blobs);
  const auto victim = store.id_of(blobs[0]);
  store.damage(pack, victim);
  CHECK_THROWS_AS(store->read(victim), base::Error);
  const auto table = first_table(store);
  store.close();
  SECTION("rotten") {
    auto bytes = tests::read_small_file(table);
    bytes[100] = static_cast<char>(bytes[100] ^ 1);
    replace(table, bytes);
  }
  SECTION("gone") {
    base::remove_tree(AT_FDCWD, table);
  }
  SECTION("all of cache") {
    base::remove_tree(AT_FDCWD, store.path() + "/cache");
  }
  SECTION("a place where no table can be") {
    replace(store.path() + "/cache/index", {});
  }
  store.reopen();
  CHECK_FALSE(store->find(victim));
  CHECK(store.add(blobs[0]) == victim);
  CHECK(tests::holds(*store, victim, blobs[0]));
}

TEST_CASE("rows whose guard was made to fit still cannot make wrong bytes pass", "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1);
  (void)store.add_pack(blobs);
  const auto victim = store.id_of(blobs[0]);
  const auto record = store->impl().with_index([](auto& index) { return index.packs(); }).at(0);
  auto place = store.place_of(store.id_of(blobs[1]));
  SECTION("another blob's place") {}
  SECTION("no group there") {
    place.group.offset += 3;
  }
  SECTION("a group larger than the pack") {
    place.group.size = 20 << 20;
  }
  SECTION("an impossible size") {
    place.group.size = 0xffffffff;
  }
  SECTION("beyond the end") {
    place.group.offset = UINT64_MAX / 2;
  }
  SECTION("an offset that is negative") {
    place.group.offset = UINT64_MAX;
  }
  SECTION("beyond the group's blobs") {
    place.position = 1000;
  }
  store->impl().with_index([&](auto& index) {
    index.put_packs({{record, {{victim, place}}, {}}}, vat::internal::Index::Damage::forget);
  });
  CHECK(ask(*store, victim, blobs[0]) == Answer::right);
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
}

TEST_CASE("a place that leads to nothing says what is wrong with it", "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1, 3);
  const auto pack = store.add_pack(blobs);
  const auto id = store.id_of(blobs[0]);
  const auto good = store.place_of(id);
  const auto message = [&](const vat::internal::Place& place) {
    return tests::message_of([&] { (void)store->impl().read_place(id, place); });
  };
  auto wrong = good;
  wrong.position = 100;
  CHECK(message(wrong) == "group holds fewer blobs than indexed");
  wrong = good;
  wrong.group.offset = tests::read_small_file(store.pack_path(pack)).size() - 10;
  CHECK(message(wrong) == "pack ends within a group");
  wrong = good;
  ++wrong.pack;
  CHECK(message(wrong) == "pack is gone");
}

TEST_CASE("a vat that cannot be written is read with an index elsewhere", "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1);
  (void)store.add_pack(blobs);
  store.close();
  base::remove_tree(AT_FDCWD, store.path() + "/local");
  if (::geteuid() == 0) {
    WARN("SKIPPED: root may write anywhere");
    return;
  }
  for (const auto* part : {"", "/primary/pack", "/tmp"})
    REQUIRE(::chmod((store.path() + part).c_str(), 0555) == 0);
  store.reopen();
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  CHECK(tests::category_of([&] { (void)store.add(tests::random_bytes(10, 99)); }) == Category::local);
  for (const auto* part : {"", "/primary/pack", "/tmp"})
    REQUIRE(::chmod((store.path() + part).c_str(), 0755) == 0);
}

TEST_CASE("a pack that vanishes takes its blobs along, and one that comes back brings them",
          "[vat][damage]") {
  TestVat store;
  const auto blobs = some_blobs(1);
  const auto name = store.add_pack(blobs);
  const auto path = store.pack_path(name);
  REQUIRE(::rename(path.c_str(), (path + ".away").c_str()) == 0);
  store.reopen();
  CHECK_FALSE(store->find(store.id_of(blobs[0])));
  CHECK(ask(*store, store.id_of(blobs[0]), blobs[0]) == Answer::not_found);
  // A pack added meanwhile is not taken for the one that went.
  const auto others = some_blobs(2);
  (void)store.add_pack(others);
  for (const auto& blob : others) CHECK(tests::holds(*store, store.id_of(blob), blob));
  REQUIRE(::rename((path + ".away").c_str(), path.c_str()) == 0);
  store.reopen();
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
}

TEST_CASE("a rebuilt index is not confused with what was read before", "[vat][damage]") {
  TestVat store;
  const auto first = some_blobs(1), second = some_blobs(2);
  const auto gone = store.add_pack(first);
  (void)store.add_pack(second);
  for (const auto& blob : first) CHECK(tests::holds(*store, store.id_of(blob), blob));
  REQUIRE(::unlink(store.pack_path(gone).c_str()) == 0);
  store.lose_index();
  for (const auto& blob : second) CHECK(tests::holds(*store, store.id_of(blob), blob));
  CHECK(store.notes.empty());
}

TEST_CASE("verify of a sound vat finds nothing and counts what there is", "[vat][verify]") {
  TestVat store;
  (void)store.add_pack(some_blobs(1));
  (void)store.add_pack(some_blobs(2, 5));
  vat::VerifyOptions options;
  std::uint64_t last = 0;
  options.progress = [&](std::uint64_t size) { last = size; };
  const auto summary = vat::verify(*store, options, [](const vat::Damage&) { FAIL("damage"); });
  CHECK(summary.packs == 2);
  CHECK(summary.groups == 8);
  CHECK(summary.blobs == 8);
  CHECK(summary.damaged == 0);
  CHECK(summary.read_size == last);
}

TEST_CASE("verify reports exactly the blobs that are damaged", "[vat][verify]") {
  TestVat store;
  const auto blobs = some_blobs(1, 6);
  const auto name = store.add_pack(blobs);
  (void)store.add_pack(some_blobs(2));
  // A group of three texts that are damaged together.
  std::set<ObjectId> wanted;
  vat::Adder adder(*store);
  for (std::uint64_t i = 0; i < 3; ++i) {
    const auto text = tests::random_bytes(500, 900 + i);
    wanted.insert(store.id_of(text));
    (void)adder.put(store.id_of(text), formats::BlobKind::data, vat::Grouping::text, text);
  }
  const auto texts = adder.finish().packs.at(0) + ".zst";
  store.damage(texts, *wanted.begin());
  for (const std::size_t i : {1U, 4U}) {
    wanted.insert(store.id_of(blobs[i]));
    store.damage(name, store.id_of(blobs[i]));
  }
  std::set<ObjectId> found;
  for (const auto& damage : verify(store)) {
    REQUIRE(damage.id);
    CHECK(found.insert(*damage.id).second);
    CHECK_FALSE(damage.repaired);
    CHECK(damage.file ==
          "primary/pack/" +
              (*damage.id == store.id_of(blobs[1]) || *damage.id == store.id_of(blobs[4]) ? name : texts));
  }
  CHECK(found == wanted);
  for (const auto& id : wanted) CHECK_FALSE(store->find(id));  // verify has told the index
  // No other copy: repair changes nothing.
  const auto packs = store.packs();
  for (const auto& damage : verify(store, true)) CHECK_FALSE(damage.repaired);
  CHECK(store.packs() == packs);
  CHECK(tests::holds(*store, store.id_of(blobs[0]), blobs[0]));
}

TEST_CASE("damage that was found is remembered until it is healed", "[vat][verify]") {
  TestVat store;
  const auto blobs = some_blobs(1, 4);
  const auto name = store.add_pack(blobs);
  const auto sound = tests::read_small_file(store.pack_path(name));
  const auto ids = {store.id_of(blobs[1]), store.id_of(blobs[2])};
  for (const auto& id : ids) store.damage(name, id);
  store.reopen();
  CHECK(verify(store).size() == 2);
  // A read that fails makes the vat look at its packs again.
  if (GENERATE(true, false)) CHECK(ask(*store, store.id_of(blobs[1]), blobs[1]) == Answer::corrupt);
  for (const auto& id : ids) CHECK_FALSE(store->find(id));

  SECTION("by adding again") {
    for (const auto& i : {1, 2}) CHECK(store.add_pack({blobs[static_cast<std::size_t>(i)]}) != name);
    for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  }
  SECTION("from outside, times kept") {
    TestVat::edit(store.pack_path(name), [&](std::string& bytes) { bytes = sound; });
    if (GENERATE(true, false)) store.reopen();
    CHECK(verify(store).empty());
    for (const auto& id : ids) CHECK(store->find(id));
    for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  }
}

TEST_CASE("repair keeps every id readable", "[vat][verify]") {
  TestVat store;
  const auto blobs = some_blobs(1, 5);
  const auto name = store.add_pack(blobs);
  for (const auto& blob : blobs) (void)store->read(store.id_of(blob));  // handles and groups are cached
  const auto damaged = store.id_of(blobs[2]);
  store.damage(name, damaged);
  TestVat other;
  const auto copy = other.add_pack({blobs[2], tests::random_bytes(10, 5)});
  copy_file(other.pack_path(copy), store.pack_path(copy));
  if (GENERATE(true, false)) store.reopen();
  store.lose_index();
  const auto damages = verify(store, true);
  REQUIRE(damages.size() == 1);
  CHECK(damages[0].id == damaged);
  CHECK(damages[0].repaired);
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  CHECK(verify(store).empty());
  store.reopen();
  for (const auto& blob : blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
  struct stat info;
  CHECK(::stat((store.path() + "/local/quarantine/" + name).c_str(), &info) == 0);
}

TEST_CASE("repair loses nothing where a whole pack has something behind it, or another's name",
          "[vat][verify]") {
  TestVat store;
  const auto first = some_blobs(1), second = some_blobs(2);
  const std::array paths{store.pack_path(store.add_pack(first)), store.pack_path(store.add_pack(second))};
  store.close();
  const std::array contents{tests::read_small_file(paths[0]), tests::read_small_file(paths[1])};
  const bool swapped = GENERATE(true, false);
  for (std::size_t i = 0; i < paths.size(); ++i) {
    REQUIRE(::chmod(paths[i].c_str(), 0644) == 0);
    tests::write_file(paths[i], base::as_bytes(swapped ? contents[1 - i] : contents[i] + "more"));
    TestVat::make_old(paths[i]);
  }
  store.reopen();
  CHECK_FALSE(verify(store).empty());
  // What hides behind a trailer that is not at the end cannot be known; a wrong name can be put right.
  for (const auto& damage : verify(store, true)) CHECK(damage.repaired == swapped);
  CHECK(verify(store).empty());
  if (swapped)
    for (std::size_t i = 0; i < paths.size(); ++i) CHECK(tests::read_small_file(paths[i]) == contents[i]);
  for (const auto* blobs : {&first, &second})
    for (const auto& blob : *blobs) CHECK(tests::holds(*store, store.id_of(blob), blob));
}

TEST_CASE("repair ends where a pack lies under two names", "[vat][verify]") {
  TestVat store;
  const auto first = some_blobs(1), second = some_blobs(2);
  const auto sound = store.pack_path(store.add_pack(first)), wrong = store.pack_path(store.add_pack(second));
  store.close();
  REQUIRE(::chmod(wrong.c_str(), 0644) == 0);
  copy_file(sound, wrong);
  TestVat::make_old(wrong);
  store.reopen();
  const auto damages = verify(store, true);
  REQUIRE(damages.size() == 1);
  CHECK(damages[0].repaired);
  CHECK(verify(store).empty());
  for (const auto& blob : first) CHECK(tests::holds(*store, store.id_of(blob), blob));
}

TEST_CASE("repair does not rely on copies that are damaged themselves", "[vat][verify]") {
  // Two packs hold `shared`. The first is damaged elsewhere, and that blob has another copy; the copy of
  // `shared` in the second is bad, which nobody knows yet. Whichever is checked first, `shared` must stay.
  const auto shared = tests::random_bytes(4000, 1);
  const auto hurt = tests::random_bytes(4000, 2);
  for (std::uint64_t seed = 10; seed < 13; ++seed) {
    INFO("seed " << seed);
    TestVat store;
    const std::vector<std::vector<base::Buffer>> packs{
        {shared, hurt}, {shared, tests::random_bytes(50, seed)}, {hurt, tests::random_bytes(60, seed)}};
    std::vector<std::string> names;
    for (const auto& blobs : packs) {
      TestVat other;
      names.push_back(other.add_pack(blobs));
      const auto path = store.pack_path(names.back());
      copy_file(other.pack_path(names.back()), path);
      const auto id = names.size() == 1 ? store.id_of(hurt) : store.id_of(shared);
      if (names.size() == 3) continue;
      const auto group = other.place_of(id).group;
      TestVat::flip(path, group.offset + group.size / 2);
    }
    store.reopen();
    (void)verify(store, true);
    CHECK(tests::holds(*store, store.id_of(shared), shared));
    CHECK(tests::holds(*store, store.id_of(hurt), hurt));
    store.reopen();
    CHECK(tests::holds(*store, store.id_of(shared), shared));
    CHECK(tests::holds(*store, store.id_of(hurt), hurt));
  }
}

TEST_CASE("a hand-filled file is only put aside for a copy that is good", "[vat][verify]") {
  TestVat store;
  const auto content = tests::random_bytes(4000, 1);
  const auto id = store.id_of(content);
  const auto name = store.add_pack({content});
  const auto hex = id.hex();
  base::make_directories(store.path() + "/primary/" + hex.substr(0, 2));
  const auto path = store.path() + "/primary/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".blob";
  tests::write_file(path, tests::random_bytes(4000, 2));
  const bool packed_is_bad = GENERATE(false, true);
  if (packed_is_bad) store.damage(name, id);
  std::size_t repaired = 0;
  for (const auto& damage : verify(store, true)) repaired += damage.repaired;
  CHECK(repaired == (packed_is_bad ? 0 : 1));
  CHECK((ask(*store, id, content) == Answer::right) == !packed_is_bad);
}
