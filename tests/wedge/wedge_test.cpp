// Entries of a wedge: made, updated, taken over, put aside; and what is in the way is never lost.
#include "wedge/wedge.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <map>

#include "formats/base/error.h"
#include "tests/formats/damage.h"
#include "tests/wedge/test_store.h"
#include "vat/ingest.h"

using base::Category;
using tests::open_dir;
using tests::put_file;
using tests::Store;
using wedge::EntryRoot;
using wedge::SyncOptions;
using wedge::SyncResult;
using wedge::Wedge;
using Kind = wedge::Difference::Kind;
using Outcome = SyncResult::Outcome;

namespace {

constexpr const char* kOwner = "a shrub";

/// A vat, a wedge, and two states of one tree.
struct Scene {
  Scene() {
    tests::make_tree(source());
    first = add();
    put_file(source() + "/dir/sub/deep", "other");
    put_file(source() + "/fresh", "new");
    REQUIRE(::unlink((source() + "/dir/tool").c_str()) == 0);
    second = add();
  }
  [[nodiscard]] std::string source() const { return store.dir / "source"; }
  [[nodiscard]] std::string top() const { return store.dir / "wedge"; }
  [[nodiscard]] std::string at(const std::string& path) const { return top() + "/" + path; }

  EntryRoot add() {
    const auto ids = store.add(source());
    EntryRoot root;
    root.manifest = ids.manifest;
    root.layout = ids.layout;
    return root;
  }
  EntryRoot add_file(const std::string& content, EntryRoot::Type type = EntryRoot::Type::file) {
    put_file(store.dir / "one", content);
    const auto fd = base::open_at(AT_FDCWD, store.dir / "one", O_RDONLY);
    const auto added = vat::ingest_stream(*store.store, store.store->parameters(), {}, fd.get(), {});
    EntryRoot root;
    root.type = type;
    root.blob = added.blob;
    root.recipe = added.recipe;
    root.size = added.size;
    return root;
  }
  SyncResult sync(const EntryRoot& root, const SyncOptions& options = {}, const std::string& path = "x/t") {
    return Wedge(top()).sync(*store.store, path, root, kOwner, options);
  }
  SyncResult remove(const SyncOptions& options = {}) { return Wedge(top()).remove("x/t", options); }
  /// Paths of all differences, by kind.
  std::map<std::string, Kind> verify(const EntryRoot& root, const std::string& path = "x/t") {
    std::map<std::string, Kind> found;
    const auto count = wedge::verify_entry(
        *store.store, top(), path, root, {},
        [&](const wedge::Difference& difference) { found[difference.path] = difference.kind; });
    CHECK(count == found.size());
    return found;
  }
  /// The state of the entry before its last change.
  [[nodiscard]] std::string previous() const {
    const auto dir = top() + "/.shrub/old";
    const auto names = base::list_directory(open_dir(dir).get());
    REQUIRE(names.size() == 1);
    return dir + "/" + names[0];
  }

  Store store;
  EntryRoot first, second;
};

SyncOptions overwriting() {
  SyncOptions options;
  options.overwrite = true;
  return options;
}

std::vector<std::string> paths_of(const std::vector<wedge::Difference>& differences) {
  std::vector<std::string> paths;
  for (const auto& difference : differences) paths.push_back(difference.path);
  return paths;
}

/// Changes the file and leaves its size and times as they were.
void change_in_secret(const std::string& path) {
  struct stat info;
  REQUIRE(::stat(path.c_str(), &info) == 0);
  auto content = tests::read_file(path);
  content[0] = static_cast<char>(content[0] ^ 1);
  const auto fd = base::open_at(AT_FDCWD, path, O_WRONLY);
  REQUIRE(::pwrite(fd.get(), content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
  const timespec times[] = {info.st_mtim, info.st_mtim};
  REQUIRE(::futimens(fd.get(), times) == 0);
}

bool exists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

}  // namespace

TEST_CASE("an entry is made once and updated by what changed", "[wedge][sync]") {
  Scene scene;
  auto result = scene.sync(scene.first);
  CHECK(result.outcome == Outcome::created);
  CHECK(result.summary.files == 5);
  CHECK(scene.verify(scene.first).empty());
  CHECK(scene.sync(scene.first).outcome == Outcome::unchanged);
  CHECK(scene.verify(scene.second) == std::map<std::string, Kind>{{"dir/sub/deep", Kind::content},
                                                                  {"dir", Kind::metadata},
                                                                  {"dir/tool", Kind::extra},
                                                                  {".", Kind::metadata},
                                                                  {"fresh", Kind::missing}});
  result = scene.sync(scene.second);
  CHECK(result.outcome == Outcome::updated);
  CHECK(result.summary.fetched_size == 8);
  CHECK(result.summary.reused_files == 3);
  CHECK(scene.verify(scene.second).empty());
  CHECK(tests::read_file(scene.previous() + "/dir/tool") == "#!/bin/sh\n");
  CHECK(Wedge(scene.top()).owners() == std::map<std::string, std::string>{{"x/t", kOwner}});
  Wedge(scene.top()).give("x/t", "another");
  CHECK(Wedge(scene.top()).owners() == std::map<std::string, std::string>{{"x/t", "another"}});
  CHECK(scene.sync(scene.second).outcome == Outcome::unchanged);
  Wedge(scene.top()).give("x/t", kOwner);
  CHECK(base::list_directory(open_dir(scene.at(".shrub/tmp")).get()).empty());
}

TEST_CASE("what was put into an entry is in the way unless it is said what to do with it", "[wedge][sync]") {
  Scene scene;
  (void)scene.sync(scene.first);
  put_file(scene.at("x/t/dir/mine"), "precious");
  put_file(scene.at("x/t/dir/__pycache__/a.pyc"), "by-product");
  CHECK(scene.sync(scene.first).in_the_way.size() == 1);
  const auto blocked = scene.sync(scene.second);
  CHECK(blocked.outcome == Outcome::blocked);
  CHECK(paths_of(blocked.in_the_way) == std::vector<std::string>{"dir/mine"});
  CHECK(scene.remove().outcome == Outcome::blocked);
  CHECK(tests::read_file(scene.at("x/t/dir/mine")) == "precious");

  SECTION("keep it") {
    SyncOptions options;
    options.keep_extra = true;
    CHECK(scene.sync(scene.second, options).outcome == Outcome::updated);
    CHECK(tests::read_file(scene.at("x/t/dir/mine")) == "precious");
    CHECK(tests::read_file(scene.at("x/t/dir/__pycache__/a.pyc")) == "by-product");
    CHECK(tests::read_file(scene.at("x/t/fresh")) == "new");
    CHECK(tests::read_file(scene.previous() + "/dir/mine") == "precious");
    CHECK(scene.sync(scene.second, options).outcome == Outcome::unchanged);
    CHECK(scene.remove(options).outcome == Outcome::blocked);
  }
  SECTION("leave it behind") {
    CHECK(scene.sync(scene.second, overwriting()).outcome == Outcome::updated);
    CHECK_FALSE(exists(scene.at("x/t/dir/mine")));
    CHECK(tests::read_file(scene.previous() + "/dir/mine") == "precious");
  }
  SECTION("its directory goes") {
    REQUIRE(std::system(("rm -r " + scene.source() + "/dir").c_str()) == 0);
    const auto third = scene.add();
    SyncOptions options;
    options.keep_extra = true;
    CHECK(tests::category_of([&] { (void)scene.sync(third, options); }) == Category::refused);
    CHECK(tests::read_file(scene.at("x/t/dir/mine")) == "precious");
    CHECK(scene.sync(third, overwriting()).outcome == Outcome::updated);
    CHECK(scene.verify(third).empty());
  }
}

TEST_CASE("a changed file is in the way, a lost one is made again", "[wedge][sync]") {
  Scene scene;
  (void)scene.sync(scene.first);
  REQUIRE(::unlink(scene.at("x/t/dir/sub/deep").c_str()) == 0);
  CHECK(scene.sync(scene.first).outcome == Outcome::updated);
  CHECK(scene.verify(scene.first).empty());

  put_file(scene.at("x/t/dir/tool"), "edited");
  CHECK(paths_of(scene.sync(scene.first).in_the_way) == std::vector<std::string>{"dir/tool"});
  CHECK(scene.sync(scene.first, overwriting()).outcome == Outcome::updated);
  CHECK(scene.verify(scene.first).empty());
  CHECK(tests::read_file(scene.previous() + "/dir/tool") == "edited");

  REQUIRE(std::system(("rm -r " + scene.at("x/t")).c_str()) == 0);
  CHECK(scene.sync(scene.second).outcome == Outcome::created);
  CHECK(scene.verify(scene.second).empty());
}

TEST_CASE("no change hides behind an old time", "[wedge][sync]") {
  Scene scene;
  (void)scene.sync(scene.first);
  change_in_secret(scene.at("x/t/large"));
  CHECK(scene.verify(scene.first) == std::map<std::string, Kind>{{"large", Kind::content}});
  const auto result = scene.sync(scene.second);
  CHECK(result.outcome == Outcome::updated);
  CHECK(result.summary.reused_files == 2);
  CHECK(scene.verify(scene.second).empty());
}

TEST_CASE("what already is there is adopted if it is the same", "[wedge][sync]") {
  Scene scene;
  base::make_directories(scene.at("x"));
  REQUIRE(std::system(("cp -a " + scene.source() + " " + scene.at("x/t")).c_str()) == 0);
  CHECK(scene.sync(scene.first).outcome == Outcome::blocked);
  CHECK(tests::read_file(scene.at("x/t/fresh")) == "new");
  CHECK(scene.sync(scene.second).outcome == Outcome::adopted);
  CHECK(scene.sync(scene.second).outcome == Outcome::unchanged);
  CHECK(scene.sync(scene.first).outcome == Outcome::updated);

  base::make_directories(scene.at("y"));
  CHECK(scene.sync(scene.first, {}, "y").outcome == Outcome::updated);
  CHECK(scene.verify(scene.first, "y").empty());
}

TEST_CASE("files and images are entries too", "[wedge][sync]") {
  Scene scene;
  const auto type = GENERATE(EntryRoot::Type::file, EntryRoot::Type::image);
  const std::string large = GENERATE(std::string("small"), std::string(400000, '\0') + "end");
  const auto root = scene.add_file(large, type);
  CHECK(scene.sync(root).outcome == Outcome::created);
  CHECK(tests::read_file(scene.at("x/t")) == large);
  CHECK(scene.verify(root).empty());
  CHECK(scene.sync(root).outcome == Outcome::unchanged);
  change_in_secret(scene.at("x/t"));
  CHECK(scene.verify(root) == std::map<std::string, Kind>{{".", Kind::content}});
  put_file(scene.at("x/t"), "short");
  CHECK(scene.sync(root).outcome == Outcome::blocked);
  CHECK(scene.sync(root, overwriting()).outcome == Outcome::updated);
  CHECK(tests::read_file(scene.previous()) == "short");

  // A tree takes the place of a file and the other way round.
  CHECK(scene.sync(scene.first).outcome == Outcome::updated);
  CHECK(scene.verify(scene.first).empty());
  CHECK(scene.verify(root) == std::map<std::string, Kind>{{".", Kind::type}});
  CHECK(scene.sync(root).outcome == Outcome::updated);
  CHECK(scene.verify(root).empty());
  CHECK(scene.verify(scene.first) == std::map<std::string, Kind>{{".", Kind::type}});
  CHECK(scene.verify(root, "nowhere/t") == std::map<std::string, Kind>{{".", Kind::missing}});
}

TEST_CASE("an archive is unpacked as an entry", "[wedge][sync]") {
  Scene scene;
  if (std::system(("tar -C " + scene.source() + " -czf " + (scene.store.dir / "a.tar.gz") + " .").c_str()) !=
      0) {
    WARN("SKIPPED: no tar");
    return;
  }
  auto root = scene.add_file(tests::read_file(scene.store.dir / "a.tar.gz"));
  root.unpack = "tar.gz";
  CHECK(scene.sync(root).outcome == Outcome::created);
  CHECK(scene.verify(root).empty());
  CHECK(tests::read_file(scene.at("x/t/fresh")) == "new");
  CHECK(scene.sync(root).outcome == Outcome::unchanged);
  put_file(scene.at("x/t/fresh"), "edited");
  CHECK(scene.verify(root).at("fresh") == Kind::content);
  CHECK(scene.sync(root).outcome == Outcome::blocked);
}

TEST_CASE("an entry goes away only whole", "[wedge][sync]") {
  Scene scene;
  (void)scene.sync(scene.first);
  SyncOptions dry;
  dry.dry_run = true;
  CHECK(scene.remove(dry).outcome == Outcome::removed);
  CHECK(scene.verify(scene.first).empty());
  CHECK(scene.remove().outcome == Outcome::removed);
  CHECK_FALSE(exists(scene.at("x/t")));
  CHECK(tests::read_file(scene.previous() + "/dir/file") == "hello\n");
  CHECK(Wedge(scene.top()).owners().empty());
  CHECK(scene.remove().outcome == Outcome::removed);  // nothing to do
}

TEST_CASE("a dry run says what would be done and does nothing", "[wedge][sync]") {
  Scene scene;
  SyncOptions dry;
  dry.dry_run = true;
  const auto would = [&](const EntryRoot& root) {
    return Wedge(scene.top(), true).sync(*scene.store.store, "x/t", root, kOwner, dry).outcome;
  };
  CHECK(would(scene.first) == Outcome::created);
  CHECK_FALSE(exists(scene.top()));
  (void)scene.sync(scene.first);
  CHECK(would(scene.first) == Outcome::unchanged);
  CHECK(would(scene.second) == Outcome::updated);
  put_file(scene.at("x/t/mine"), "");
  CHECK(would(scene.second) == Outcome::blocked);
  CHECK(scene.verify(scene.first) ==
        std::map<std::string, Kind>{{".", Kind::metadata}, {"mine", Kind::extra}});
}

TEST_CASE("a blob that cannot be had leaves the entry as it was", "[wedge][sync]") {
  Scene scene;
  (void)scene.sync(scene.first);
  const auto pack = scene.store.dir / "vat/primary/pack";
  // The second pack alone holds what is new.
  const auto fresh = base::hash_blob(base::ObjectFormat::sha256, base::as_bytes("new"));
  for (const auto& name : base::list_directory(open_dir(pack).get())) {
    auto vat = scene.store.dir / "vat";
    const auto aside = scene.store.dir / name;
    REQUIRE(::rename((pack + "/" + name).c_str(), aside.c_str()) == 0);
    scene.store.store = vat::Vat::open(vat);
    if (scene.store.store->find(fresh)) {
      REQUIRE(::rename(aside.c_str(), (pack + "/" + name).c_str()) == 0);
      continue;
    }
    CHECK(tests::category_of([&] { (void)scene.sync(scene.second); }) == Category::not_found);
    REQUIRE(::rename(aside.c_str(), (pack + "/" + name).c_str()) == 0);
  }
  scene.store.store = vat::Vat::open(scene.store.dir / "vat");
  CHECK(scene.verify(scene.first).empty());
  CHECK(scene.sync(scene.second).outcome == Outcome::updated);
  CHECK(base::list_directory(open_dir(scene.at(".shrub/tmp")).get()).empty());
}

TEST_CASE("one sync of a wedge at a time", "[wedge][sync]") {
  Scene scene;
  const Wedge wedge(scene.top());
  CHECK(tests::category_of([&] { const Wedge other(scene.top()); }) == Category::busy);
  const Wedge reading(scene.top(), true);
  CHECK(reading.owners().empty());
}

TEST_CASE("no entry lies where the wedge keeps its state", "[wedge][sync]") {
  Scene scene;
  Wedge wedge(scene.top());
  for (const auto* path : {".shrub", ".shrub/entries/x"})
    CHECK(tests::category_of([&] { (void)wedge.sync(*scene.store.store, path, scene.first, kOwner, {}); }) ==
          base::Category::refused);
}

TEST_CASE("a path of an entry that leads out of the wedge is not followed", "[wedge][sync]") {
  Scene scene;
  base::make_directories(scene.top());
  base::make_directories(scene.store.dir / "outside");
  REQUIRE(::symlink("../outside", scene.at("x").c_str()) == 0);
  CHECK(tests::category_of([&] { (void)scene.sync(scene.first); }) == Category::refused);
  CHECK(base::list_directory(open_dir(scene.store.dir / "outside").get()).empty());
  REQUIRE(::unlink(scene.at("x").c_str()) == 0);
  base::make_directories(scene.at("x"));
  REQUIRE(::symlink("../../outside", scene.at("x/t").c_str()) == 0);
  CHECK(scene.sync(scene.first).outcome == Outcome::blocked);
  CHECK(scene.sync(scene.first, overwriting()).outcome == Outcome::updated);
  CHECK(base::list_directory(open_dir(scene.store.dir / "outside").get()).empty());
  CHECK(scene.verify(scene.first).empty());
}
