// What every kind of vat does for a reader, wherever its files lie: one suite for all of them, against real
// servers.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "formats/compression/zstd.h"
#include "formats/text/recipe.h"
#include "tests/vat/test_vat.h"
#include "vat/content.h"
#include "vat/ingest.h"
#include "vat/maps.h"
#include "vat/peer_set.h"

using base::Category;
using base::ObjectId;
using tests::TestVat;

namespace {

/// A server of tests/e2e/serve, as long as this lives.
class Server {
 public:
  Server(const std::string& kind, const std::string& directory) {
    int in[2], out[2];
    REQUIRE(::pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    child_ = ::fork();
    REQUIRE(child_ >= 0);
    if (child_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::execl(SHRUB_SERVE, SHRUB_SERVE, kind.c_str(), directory.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    input_ = base::UniqueFd(in[1]);
    FILE* lines = ::fdopen(out[0], "r");
    char line[4096];
    while (std::fgets(line, sizeof line, lines) != nullptr) {
      std::string text(line);
      text.pop_back();
      if (text == ".") {
        ready_ = true;
        break;
      }
      const auto equals = text.find('=');
      values_[text.substr(0, equals)] = text.substr(equals + 1);
    }
    std::fclose(lines);
  }
  ~Server() { (void)stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] bool is_ready() const { return ready_; }
  int stop() {
    if (child_ < 0) return 0;
    input_.reset();
    int status = 0;
    ::waitpid(std::exchange(child_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  [[nodiscard]] vat::PeerAddress address(const std::string& below) const {
    const auto value = [&](const char* name) {
      const auto found = values_.find(name);
      return found == values_.end() ? std::string() : found->second;
    };
    vat::PeerAddress address;
    address.url = value("url") + below;
    address.may_be_local = true;
    address.ssh_private_key = value("VAT_SSH_KEY");
    address.known_hosts = value("VAT_SSH_KNOWN_HOSTS");
    address.user = value("AWS_ACCESS_KEY_ID");
    address.password = value("AWS_SECRET_ACCESS_KEY");
    address.endpoint = value("AWS_ENDPOINT_URL_S3");
    address.region = value("AWS_REGION");
    return address;
  }

 private:
  pid_t child_ = -1;
  base::UniqueFd input_;
  std::map<std::string, std::string> values_;
  bool ready_ = false;
};

/// As with stock tools.
void put_by_hand(const TestVat& store, const ObjectId& id, const std::string& suffix, base::Bytes bytes) {
  const auto directory = store.path() + "/primary/" + id.hex().substr(0, 2);
  base::make_directories(directory);
  tests::write_file(directory + "/" + id.hex().substr(2) + suffix, bytes);
}

/// A vat with a bit of everything, and what it holds.
struct Filled {
  TestVat store;
  std::vector<base::Buffer> blobs;
  vat::Ingested large;
  base::Buffer large_bytes;
  ObjectId by_hand, damaged;

  Filled() {
    for (std::uint64_t i = 0; i < 40; ++i) blobs.push_back(tests::random_bytes(100 + i * 300, i + 1));
    blobs.emplace_back();
    (void)store.add_pack(blobs);
    large_bytes = tests::random_bytes(300000, 77);
    large_bytes.resize(large_bytes.size() + 200000);
    base::append(large_bytes, tests::random_bytes(250000, 78));
    const tests::TempDir dir;
    tests::write_file(dir / "f", large_bytes);
    const auto fd = base::open_at(AT_FDCWD, dir / "f", O_RDONLY);
    large = vat::ingest_stream(*store, store->parameters(), {}, fd.get(), {});
    REQUIRE(large.recipe);
    vat::write_map(*store, {std::nullopt, std::nullopt, large.blob, large.recipe});
    const auto content = base::as_bytes("put here with stock tools\n");
    by_hand = store.id_of(content);
    base::Buffer packed;
    (void)formats::ZstdCompressor().compress(content, packed);
    put_by_hand(store, by_hand, ".blob.zst", packed);
    const auto bad = tests::random_bytes(5000, 99);
    const auto pack = store.add_pack({bad});
    damaged = store.id_of(bad);
    store.damage(pack, damaged);
    (void)vat::write_pack_list(*store);
    store.close();
  }
};

ObjectId id_of(base::Bytes content) {
  return base::hash_blob(base::ObjectFormat::sha256, content);
}

/// Those of scripts/long are named by a variable.
std::vector<std::string> kinds() {
  if (const char* one = std::getenv("SOURCE_KIND")) return {one};
  return {"local", "cache", "nginx", "apache", "python", "sshd", "swift"};
}

std::unique_ptr<vat::BlobSource> open(const std::string& kind, Filled& filled, const Server* server,
                                      const std::string& cache) {
  if (kind == "local") return vat::Vat::open(filled.store.path(), {cache, {}});
  vat::PeerOptions options;
  options.cache_dir = cache;
  return std::make_unique<vat::PeerSet>(base::ObjectFormat::sha256, std::vector<std::shared_ptr<vat::Vat>>(),
                                        std::vector{server->address("/vat")}, options);
}

/// It by nginx, and a reader's cache. Says so if nginx is not there.
struct Served {
  explicit Served(const Filled& filled) : server("nginx", filled.store.path() + "/..") {
    options.cache_dir = caches / "c";
    if (!server.is_ready()) WARN("SKIPPED: nginx is not installed");
  }
  tests::TempDir caches;
  Server server;
  vat::PeerOptions options;
};

Category category_of_reading(vat::BlobSource& source, const ObjectId& id) {
  try {
    (void)source.read(id);
  } catch (const base::Error& error) {
    return error.category();
  }
  return Category::internal;
}

base::Buffer content_of(vat::BlobSource& source, const ObjectId& id, const vat::ByteRange& range) {
  base::Buffer bytes;
  vat::stream_content(source, id, range, [&](base::Bytes part) { base::append(bytes, part); });
  return bytes;
}

}  // namespace

TEST_CASE("every kind of vat gives what it holds, proven, and says what it does not hold", "[source]") {
  const auto kind = GENERATE(from_range(kinds()));
  INFO("kind " << kind);
  Filled filled;
  const tests::TempDir caches;
  std::unique_ptr<Server> server;
  if (kind != "local") {
    server = std::make_unique<Server>(kind == "cache" ? "nginx" : kind, filled.store.path() + "/..");
    if (!server->is_ready()) {
      REQUIRE(server->stop() == 77);
      WARN("SKIPPED: " << kind << " is not installed");
      return;
    }
  }
  if (kind == "cache") {  // what was fetched once is there without anybody to ask
    const auto source = open(kind, filled, server.get(), caches / "c");
    for (const auto& blob : filled.blobs) CHECK(tests::holds(*source, id_of(blob), blob));
    CHECK(content_of(*source, filled.large.blob, {}) == filled.large_bytes);
    CHECK(source->read(filled.by_hand).size() == 26);
  }
  if (kind == "cache") REQUIRE(server->stop() == 0);
  const auto source = open(kind, filled, server.get(), caches / "c");
  for (const auto& blob : filled.blobs) CHECK(tests::holds(*source, id_of(blob), blob));
  CHECK(content_of(*source, filled.large.blob, {}) == filled.large_bytes);
  const auto middle = content_of(*source, filled.large.blob, {290000, 250000});
  CHECK(std::equal(middle.begin(), middle.end(), filled.large_bytes.begin() + 290000,
                   filled.large_bytes.begin() + 540000));
  CHECK(base::as_chars(source->read(filled.by_hand)) == "put here with stock tools\n");
  CHECK(source->find(*filled.large.recipe)->kind == formats::BlobKind::recipe);
  if (kind == "cache") return;  // its peer is gone: what it does not have, it cannot know

  const auto absent = base::hash_blob(base::ObjectFormat::sha256, base::as_bytes("nowhere"));
  CHECK_FALSE(source->find(absent));
  CHECK(source->find_recipes(absent).empty());
  CHECK(category_of_reading(*source, absent) == Category::not_found);
  CHECK_THROWS_AS(source->stream(absent, [](base::Bytes) { FAIL("bytes of nothing"); }), base::Error);

  // Wrong bytes are never handed out; a peer that sends them is asked no more.
  const auto bad = category_of_reading(*source, filled.damaged);
  CHECK((bad == (kind == "local" ? Category::corrupt : Category::wrong_bytes)));
  CHECK(tests::holds(*source, id_of(filled.blobs[3]), filled.blobs[3]));
}

TEST_CASE("readers of one missing blob cause one request", "[source]") {
  Filled filled;
  const Served served(filled);
  if (!served.server.is_ready()) return;
  vat::PeerSet source(base::ObjectFormat::sha256, {}, {served.server.address("/vat")}, served.options);
  CHECK(source.find(id_of(filled.blobs[0])));  // now it knows where blobs lie
  const auto before = source.report()[0].requests;
  std::atomic<int> right = 0;
  std::vector<std::thread> readers;
  for (int i = 0; i < 8; ++i)
    readers.emplace_back([&] {
      if (source.read(id_of(filled.blobs[5])) == filled.blobs[5]) ++right;
    });
  for (auto& reader : readers) reader.join();
  CHECK(right == 8);
  CHECK(source.report()[0].requests == before + 1);
}

TEST_CASE("a file put into a vat by hand is proven before a reader of another host sees it", "[source]") {
  Filled filled;
  const auto zeros = base::Buffer(formats::kMaxPackedBlob + 1);
  base::Buffer bomb;
  (void)formats::ZstdCompressor().compress(zeros, bomb);
  const auto lie = id_of(base::as_bytes("truth")), large = id_of(zeros);
  put_by_hand(filled.store, lie, ".blob", base::as_bytes("a lie"));
  put_by_hand(filled.store, large, ".blob.zst", bomb);
  const Served served(filled);
  if (!served.server.is_ready()) return;
  const auto message = [&](const ObjectId& id) {
    vat::PeerSet source(base::ObjectFormat::sha256, {}, {served.server.address("/vat")}, served.options);
    return tests::message_of([&] { (void)source.read(id); });
  };
  CHECK_THAT(message(lie), Catch::Contains("does not match its name"));
  CHECK_THAT(message(large), Catch::Contains("too large to be fetched"));
}

TEST_CASE("what is too large for memory is streamed, and not read", "[source]") {
  TestVat store;
  const base::Buffer bytes(formats::kMaxPackedBlob + 1);
  const auto id = store.id_of(bytes);
  put_by_hand(store, id, ".blob", bytes);
  const tests::TempDir caches;
  vat::PeerOptions options;
  options.cache_dir = caches / "c";
  vat::PeerSet source(base::ObjectFormat::sha256, {store.shared()}, {}, options);
  std::uint64_t size = 0;
  source.stream(id, [&](base::Bytes part) { size += part.size(); });
  CHECK(size == bytes.size());
  CHECK_THAT(tests::message_of([&] { (void)source.read(id); }), Catch::Contains("larger than 8.0 MiB"));
}

TEST_CASE("blobs of a root that was learnt cost one request each, or fewer if they are named before",
          "[source]") {
  Filled filled;
  const Served served(filled);
  if (!served.server.is_ready()) return;
  vat::PeerSet source(base::ObjectFormat::sha256, {}, {served.server.address("/vat")}, served.options);
  source.learn({std::nullopt, std::nullopt, filled.large.blob, filled.large.recipe}, true);
  std::vector<ObjectId> chunks;
  formats::RecipeReader recipe(source.read(*filled.large.recipe), base::ObjectFormat::sha256,
                               [&](const ObjectId& id) { return source.read(id); });
  for (formats::RecipeItem item; recipe.next(item);)
    if (item.type == formats::RecipeItem::Type::chunk) chunks.push_back(item.id);
  REQUIRE(chunks.size() > 3);
  const auto before = source.report()[0].requests;
  CHECK(before <= 3);  // the map, and the recipe
  CHECK(source.read(chunks.back()).size() > 0);
  CHECK(source.report()[0].requests == before + 1);
  source.prefetch(chunks);
  for (const auto& chunk : chunks) CHECK(id_of(source.read(chunk)) == chunk);
  CHECK(source.report()[0].requests <= before + 2);
  CHECK(content_of(source, filled.large.blob, {}) == filled.large_bytes);
}
