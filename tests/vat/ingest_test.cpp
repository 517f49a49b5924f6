#include "vat/ingest.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>

#include "formats/base/error.h"
#include "tests/vat/test_vat.h"
#include "vat/content.h"

using base::Category;
using base::Error;
using base::ObjectFormat;
using vat::IngestItem;

namespace {

class FileItem final : public IngestItem {
 public:
  enum class Kind : std::uint8_t { file, nothing, failing };
  FileItem(std::size_t item_number, Kind is, std::string path)
      : number(item_number), kind_(is), path_(std::move(path)) {}
  std::optional<base::UniqueFd> open() override {
    if (kind_ == Kind::failing) throw Error(Category::local, "no luck with " + std::to_string(number));
    if (kind_ == Kind::nothing) return std::nullopt;
    auto fd = base::open_at(AT_FDCWD, path_, O_RDONLY);
    if (::fstat(fd.get(), &state) != 0) base::throw_errno("stat", errno);  // on any thread: no REQUIRE
    return fd;
  }
  const std::size_t number;

 private:
  Kind kind_;
  std::string path_;
};
using Kind = FileItem::Kind;

struct Source {
  std::size_t count;
  std::function<std::unique_ptr<FileItem>(std::size_t)> make;
  std::size_t at = 0;
  std::function<std::unique_ptr<IngestItem>()> next() {
    return [this]() -> std::unique_ptr<IngestItem> {
      return at == count ? nullptr : std::unique_ptr<IngestItem>(make(at++));
    };
  }
};

base::Category category_of(const std::exception_ptr& failure) {
  return tests::category_of([&] { std::rethrow_exception(failure); });
}

}  // namespace

TEST_CASE("any number of items comes through, in order", "[vat][ingest]") {
  const std::size_t count = GENERATE(0U, 1U, 63U, 64U, 65U, 127U, 128U, 129U, 640U);
  const unsigned threads = GENERATE(1U, 2U, 8U);
  INFO(count << " items, " << threads << " threads");
  const tests::TempDir dir;
  tests::write_file(dir / "f", base::as_bytes("hello\n"));
  const auto calling = std::this_thread::get_id();
  Source source{count, [&](std::size_t i) {
                  return std::make_unique<FileItem>(i,
                                                    i % 7 == 3   ? Kind::failing
                                                    : i % 3 == 0 ? Kind::nothing
                                                                 : Kind::file,
                                                    dir / "f");
                }};
  std::size_t done = 0;
  vat::ingest(ObjectFormat::sha1, nullptr, chunker::make_parameters(13), threads,
              {source.next(),
               [&](std::unique_ptr<IngestItem> item) {
                 const auto number = static_cast<FileItem&>(*item).number;
                 REQUIRE(number == done);
                 REQUIRE(std::this_thread::get_id() == calling);
                 ++done;
                 const bool failing = number % 7 == 3;
                 const bool empty = failing || number % 3 == 0;
                 REQUIRE((item->failure != nullptr) == failing);
                 REQUIRE(item->content.has_value() == !empty);
                 if (failing) REQUIRE(category_of(item->failure) == Category::local);
                 if (empty) return;
                 REQUIRE(item->content->blob.hex() == "ce013625030ba8dba906f756967f9e9ca394464a");
                 REQUIRE(item->content->size == 6);
                 REQUIRE_FALSE(item->content->recipe);
               },
               {}});
  CHECK(done == count);
}

TEST_CASE("what next throws ends the ingest and comes out of it", "[vat][ingest]") {
  const std::size_t at = GENERATE(0U, 1U, 63U, 64U, 65U, 200U);
  const unsigned threads = GENERATE(1U, 8U);
  INFO("at " << at << ", " << threads << " threads");
  tests::TestVat store;
  const tests::TempDir dir;
  tests::write_file(dir / "f", tests::random_bytes(40000, 1));
  vat::Adder adder(*store, {threads, formats::kDefaultLevel});
  Source source{1000, [&](std::size_t i) {
                  if (i == at) throw Error(Category::refused, "enough");
                  return std::make_unique<FileItem>(i, Kind::file, dir / "f");
                }};
  std::size_t done = 0;
  CHECK(tests::category_of([&] {
          vat::ingest(ObjectFormat::sha256, &adder, store->parameters(), threads,
                      {source.next(), [&](std::unique_ptr<IngestItem>) { ++done; }, {}});
        }) == Category::refused);
  CHECK(done <= at);
  CHECK(source.at <= at + 1);
}

TEST_CASE("next is not called again once it threw", "[vat][ingest]") {
  for (int round = 0; round < 20; ++round) {
    Source source{
        10000, [&](std::size_t i) {
          if (i == 70) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));  // others wait for their turn
            throw Error(Category::refused, "enough");
          }
          return std::make_unique<FileItem>(i, Kind::nothing, "");
        }};
    CHECK(tests::category_of([&] {
            vat::ingest(ObjectFormat::sha256, nullptr, chunker::make_parameters(13), 8,
                        {source.next(), [](std::unique_ptr<IngestItem>) {}, {}});
          }) == Category::refused);
    REQUIRE(source.at == 71);
  }
}

TEST_CASE("what done or progress throws ends the ingest, whatever workers are at", "[vat][ingest]") {
  const bool by_done = GENERATE(true, false);
  const unsigned threads = GENERATE(1U, 8U);
  tests::TestVat store;
  const tests::TempDir dir;
  tests::write_file(dir / "f", tests::random_bytes(std::size_t{12} << 20, 1));  // more than a channel holds
  vat::Adder adder(*store, {threads, 1});
  Source source{300, [&](std::size_t i) {
                  return std::make_unique<FileItem>(i, i % 10 == 0 ? Kind::file : Kind::nothing, dir / "f");
                }};
  CHECK(tests::category_of([&] {
          vat::ingest(ObjectFormat::sha256, &adder, store->parameters(), threads,
                      {source.next(),
                       [&](std::unique_ptr<IngestItem>) {
                         if (by_done) throw Error(Category::usage, "stop");
                       },
                       [&](std::uint64_t) {
                         if (!by_done) throw Error(Category::usage, "stop");
                       }});
        }) == Category::usage);
}

TEST_CASE("a file that changes while it is read fails and names nothing", "[vat][ingest]") {
  const int how = GENERATE(0, 1, 2);
  INFO("change " << how);
  const tests::TempDir dir;
  const auto path = dir / "f";
  constexpr std::size_t kSize = std::size_t{40} << 20;
  tests::write_file(path, tests::random_bytes(kSize, 7));
  tests::TestVat store(ObjectFormat::sha256, 16);
  vat::Adder adder(*store, {2, 1});
  int steps = 0;
  const auto change = [&] {
    if (++steps != 1) return;  // the worker is a channel's few MiB ahead at most
    const auto fd = base::open_at(AT_FDCWD, path, O_WRONLY);
    const char byte = 1;
    if (how == 0) REQUIRE(::pwrite(fd.get(), &byte, 1, 5) == 1);
    if (how == 1) REQUIRE(::pwrite(fd.get(), &byte, 1, kSize) == 1);
    if (how == 2) REQUIRE(::ftruncate(fd.get(), kSize - 1) == 0);
  };
  Source source{3, [&](std::size_t i) {
                  return std::make_unique<FileItem>(i, i == 1 ? Kind::file : Kind::nothing, path);
                }};
  std::size_t failed = 0;
  vat::ingest(ObjectFormat::sha256, &adder, store->parameters(), 2,
              {source.next(),
               [&](std::unique_ptr<IngestItem> item) {
                 CHECK_FALSE(item->content);
                 if (!item->failure) return;
                 ++failed;
                 CHECK(static_cast<FileItem&>(*item).number == 1);
                 CHECK(category_of(item->failure) == Category::local);
               },
               [&](std::uint64_t) { change(); }});
  CHECK(failed == 1);
  (void)adder.finish();
  std::size_t contents = 0;
  bool recipes = false;
  store->list(
      [&](const auto&, const vat::StoredBlob& blob) { recipes |= blob.kind != formats::BlobKind::data; },
      [&](const auto&, const auto&) { ++contents; });
  CHECK(contents == 0);
  CHECK_FALSE(recipes);
}

TEST_CASE("content is named as git names it and comes back, whatever its size and holes", "[vat][ingest]") {
  const auto format = GENERATE(ObjectFormat::sha1, ObjectFormat::sha256);
  const int exponent = GENERATE(13, 20);
  tests::TestVat store(format, exponent);
  const std::size_t average = store->parameters().average_size();
  const tests::TempDir dir;
  std::vector<base::Buffer> contents;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, average - 1, average, average + 1,
                                 store->parameters().max_size + 1, 9 * average})
    contents.push_back(tests::random_bytes(size, size));
  contents.push_back(base::Buffer(20 * average));  // nothing but zeros
  contents.push_back(tests::random_bytes(3 * average, 2));
  contents.back().resize(contents.back().size() + 131072);
  base::append(contents.back(), tests::random_bytes(5, 3));
  // The last once more, as a sparse file.
  contents.push_back(contents.back());
  for (std::size_t i = 0; i < contents.size(); ++i) tests::write_file(dir / std::to_string(i), contents[i]);
  {
    const auto& content = contents.back();
    const auto fd = base::open_at(AT_FDCWD, dir / std::to_string(contents.size() - 1), O_WRONLY | O_TRUNC);
    base::write_all(fd.get(), base::Bytes(content).subspan(0, 3 * average));
    REQUIRE(::lseek(fd.get(), 131072, SEEK_CUR) > 0);
    base::write_all(fd.get(), base::Bytes(content).last(5));
  }
  const bool storing = GENERATE(true, false);
  vat::Adder adder(*store);
  Source source{contents.size(), [&](std::size_t i) {
                  return std::make_unique<FileItem>(i, Kind::file, dir / std::to_string(i));
                }};
  std::vector<vat::Ingested> found;
  vat::ingest(format, storing ? &adder : nullptr, store->parameters(), 4,
              {source.next(),
               [&](std::unique_ptr<IngestItem> item) {
                 REQUIRE(item->content);
                 found.push_back(*item->content);
               },
               {}});
  REQUIRE(found.size() == contents.size());
  (void)adder.finish();
  for (std::size_t i = 0; i < contents.size(); ++i) {
    INFO("content " << i << " of " << contents[i].size());
    CHECK(found[i].size == contents[i].size());
    CHECK(found[i].blob == base::hash_blob(format, contents[i]));
    if (!storing) {
      CHECK_FALSE(found[i].recipe);
      continue;
    }
    CHECK(found[i].recipe.has_value() == !store->find(found[i].blob).has_value());
    base::Buffer back;
    vat::stream_content(*store, found[i].blob, {}, [&](base::Bytes bytes) { base::append(back, bytes); });
    CHECK(back == contents[i]);
  }
  CHECK(found[contents.size() - 1].recipe == found[contents.size() - 2].recipe);
}

TEST_CASE("a stream of unknown length is stored as a file of that content is", "[vat][ingest]") {
  const int exponent = GENERATE(13, 20);
  tests::TestVat store(ObjectFormat::sha256, exponent);
  const std::size_t average = store->parameters().average_size();
  const std::size_t size = GENERATE_COPY(std::size_t{0}, average, average + 1, 6 * average);
  const bool zeros = GENERATE(false, true);
  INFO(size << " bytes, average chunk " << average);
  const auto content = zeros ? base::Buffer(size) : tests::random_bytes(size, 5);
  const tests::TempDir dir;
  tests::write_file(dir / "f", content);
  const auto fd = base::open_at(AT_FDCWD, dir / "f", O_RDONLY);
  const auto streamed = vat::ingest_stream(*store, store->parameters(), {}, fd.get(), {});
  CHECK(streamed.size == size);
  CHECK(streamed.blob == store.id_of(content));
  base::Buffer back;
  vat::stream_content(*store, streamed.blob, {}, [&](base::Bytes bytes) { base::append(back, bytes); });
  CHECK(back == content);

  vat::Adder adder(*store);
  Source source{1, [&](std::size_t i) { return std::make_unique<FileItem>(i, Kind::file, dir / "f"); }};
  vat::ingest(ObjectFormat::sha256, &adder, store->parameters(), 1,
              {source.next(),
               [&](std::unique_ptr<IngestItem> item) {
                 REQUIRE(item->content);
                 CHECK(item->content->blob == streamed.blob);
                 CHECK(item->content->recipe == streamed.recipe);
               },
               {}});
  CHECK(adder.finish().new_blobs == 0);
}

TEST_CASE("a directory or fifo in place of a file fails", "[vat][ingest]") {
  const tests::TempDir dir;
  Source source{1, [&](std::size_t i) { return std::make_unique<FileItem>(i, Kind::file, dir.path()); }};
  vat::ingest(ObjectFormat::sha256, nullptr, chunker::make_parameters(13), 1,
              {source.next(),
               [&](std::unique_ptr<IngestItem> item) {
                 REQUIRE(item->failure);
                 CHECK(category_of(item->failure) == Category::refused);
               },
               {}});
}

TEST_CASE("packs do not depend on the number of threads", "[vat][adder]") {
  const tests::TempDir dir;
  constexpr std::size_t kFiles = 150;
  for (std::size_t i = 0; i < kFiles; ++i) {
    const std::size_t size = i % 17 == 0 ? 700000 + i : i * 131 % 20000;
    tests::write_file(dir / std::to_string(i), tests::random_bytes(size, i % 90));  // some are alike
  }
  std::vector<std::string> packs[2];
  vat::AddSummary summaries[2];
  for (const int run : {0, 1}) {
    tests::TestVat store;
    vat::Adder adder(*store, {run == 0 ? 1U : 8U, formats::kDefaultLevel});
    Source source{kFiles, [&](std::size_t i) {
                    return std::make_unique<FileItem>(i, Kind::file, dir / std::to_string(i));
                  }};
    vat::ingest(ObjectFormat::sha256, &adder, store->parameters(), run == 0 ? 1 : 8,
                {source.next(), [&](std::unique_ptr<IngestItem> item) { REQUIRE(item->content); }, {}});
    summaries[run] = adder.finish();
    packs[run] = store.packs();
  }
  CHECK(packs[0].size() == 1);
  CHECK(packs[0] == packs[1]);
  CHECK(summaries[0].packs == summaries[1].packs);
  CHECK(summaries[0].new_blobs == summaries[1].new_blobs);
  CHECK(summaries[0].stored_size == summaries[1].stored_size);
}
