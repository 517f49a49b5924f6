// Rates of the parts that adding and reading are made of, each on one core and all in one process, so that
// they compare: bytes is 10^9 bytes per second of CPU time where it says G. What is read from a file is
// $SHRUB_BENCH_FILE or 256 MiB of random data in a temporary one, in the page cache either way. The index is
// asked with 10^5 rows, and with $SHRUB_BENCH_ROWS.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chunker/internal/scan.h"
#include "formats/base/c_ptr.h"
#include "formats/base/endian.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/simd.h"
#include "formats/pack/pack.h"
#include "tests/support/temp_dir.h"
#include "vat/internal/index.h"
#include "vat/internal/stream_cutter.h"

namespace {

using base::ObjectFormat;
using benchmark::State;

/// What adding names at once and what it reads at once (vat/ingest.cpp).
constexpr std::size_t kParcelSize = std::size_t{2} << 20, kReadSize = std::size_t{1} << 20;

void set_rate(State& state, std::size_t bytes_each) {
  state.counters["bytes"] =
      benchmark::Counter(static_cast<double>(bytes_each), benchmark::Counter::kIsIterationInvariantRate,
                         benchmark::Counter::kIs1000);
}

/// Every position is examined and no candidate is a cut: the scan alone. The bytes before the first position
/// are not counted.
void scan(State& state, chunker::internal::FindCut find, std::size_t size) {
  auto parameters = chunker::make_parameters(chunker::kMinExponent);
  parameters.max_size = size;
  parameters.rare_below = parameters.often_below = 0;
  const auto data = tests::random_bytes(size, 1);
  for (auto _ : state) benchmark::DoNotOptimize(find(parameters, data));
  set_rate(state, size - parameters.min_size + 1);
}

/// Chunks of the default profile. All bytes are counted, also those before a chunk's first position.
void cut(State& state, chunker::internal::FindCut find, std::size_t size) {
  const auto parameters = chunker::make_parameters(chunker::kDefaultExponent);
  const auto data = tests::random_bytes(size, 1);
  for (auto _ : state)
    for (base::Bytes rest = data; !rest.empty();) rest = rest.subspan(find(parameters, rest));
  set_rate(state, size);
}

std::vector<base::Bytes> pieces(base::Bytes data, std::size_t size) {
  std::vector<base::Bytes> all;
  for (; !data.empty(); data = data.subspan(all.back().size()))
    all.push_back(data.subspan(0, std::min(size, data.size())));
  return all;
}

void hash_by_openssl(State& state, const char* algorithm, std::size_t size) {
  const auto data = tests::random_bytes(kParcelSize, 2);
  const base::CPtr<EVP_MD, EVP_MD_free> hash(EVP_MD_fetch(nullptr, algorithm, nullptr));
  const base::CPtr<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
  unsigned char digest[EVP_MAX_MD_SIZE];
  for (auto _ : state)
    for (const auto& blob : pieces(data, size)) {
      EVP_DigestInit_ex2(context.get(), hash.get(), nullptr);
      EVP_DigestUpdate(context.get(), blob.data(), blob.size());
      EVP_DigestFinal_ex(context.get(), digest, nullptr);
      benchmark::DoNotOptimize(digest);
    }
  set_rate(state, data.size());
}

void hash_one_by_one(State& state, ObjectFormat format, std::size_t size) {
  const auto data = tests::random_bytes(kParcelSize, 2);
  base::ObjectHasher hasher(format);
  for (auto _ : state)
    for (const auto& blob : pieces(data, size)) benchmark::DoNotOptimize(hasher.hash(blob));
  set_rate(state, data.size());
}

void hash_many(State& state, ObjectFormat format, std::size_t size) {
  const auto data = tests::random_bytes(kParcelSize, 2);
  const auto blobs = pieces(data, size);
  std::vector<base::ObjectId> ids(blobs.size());
  for (auto _ : state) base::hash_blobs(format, blobs, ids);
  set_rate(state, data.size());
}

/// Chunks collected until there are enough to name at once, as adding does.
class Parcel {
 public:
  explicit Parcel(ObjectFormat format) : format_(format) {}
  void add(base::Bytes chunk) {
    base::append(bytes_, chunk);
    sizes_.push_back(chunk.size());
    if (bytes_.size() >= kParcelSize) name();
  }
  void name() {
    std::vector<base::Bytes> chunks;
    auto rest = base::Bytes(bytes_);
    for (const auto size : sizes_) {
      chunks.push_back(rest.subspan(0, size));
      rest = rest.subspan(size);
    }
    std::vector<base::ObjectId> ids(chunks.size());
    base::hash_blobs(format_, chunks, ids);
    benchmark::DoNotOptimize(ids.data());
    bytes_.clear();
    sizes_.clear();
  }

 private:
  ObjectFormat format_;
  base::Buffer bytes_;
  std::vector<std::size_t> sizes_;
};

/// Reads a file, cuts it and names its chunks; with `content` also names the whole.
void read_file(State& state, const std::string& path, ObjectFormat format, bool content) {
  base::Buffer buffer(kReadSize);
  base::ObjectHasher hasher(format);
  Parcel parcel(format);
  std::uint64_t size = 0;
  for (auto _ : state) {
    const auto file = base::open_at(AT_FDCWD, path, O_RDONLY);
    size = base::file_size(file.get());
    if (content) hasher.reset(size);
    vat::internal::StreamCutter cutter(
        chunker::make_parameters(chunker::kDefaultExponent), [&](base::Bytes chunk) { parcel.add(chunk); },
        [](std::uint64_t) {});
    while (const std::size_t count = base::read_some(file.get(), buffer)) {
      const auto bytes = base::Bytes(buffer).subspan(0, count);
      if (content) hasher.update(bytes);
      cutter.feed(bytes);
    }
    cutter.finish();
    parcel.name();
    if (content) benchmark::DoNotOptimize(hasher.finish());
  }
  set_rate(state, static_cast<std::size_t>(size));
}

/// Words of a made-up language: a few are frequent, most are rare.
base::Buffer text(std::size_t size) {
  const auto random = tests::random_bytes(std::size_t{2} * size, 3);
  const auto number = [&](std::size_t i) { return std::to_integer<std::size_t>(random[i % random.size()]); };
  base::Buffer bytes;
  for (std::size_t i = 0; bytes.size() < size; i += 3) {
    const std::size_t word = number(i) * number(i + 1) * number(i + 2) >> 10;
    base::append(bytes, base::as_bytes("w" + std::to_string(word * 7919) + " "));
  }
  bytes.resize(size);
  return bytes;
}

struct Group {
  base::Buffer content;
  std::vector<formats::PackedBlob> blobs;

  Group(std::size_t size, std::size_t blob_size) : content(text(size)) {
    for (const auto& blob : pieces(content, blob_size))
      blobs.push_back({{}, static_cast<std::uint32_t>(blob.size()), formats::BlobKind::data});
  }
};

void encode(State& state, std::size_t size, std::size_t blob_size) {
  const Group group(size, blob_size);
  formats::ZstdCompressor compressor;
  std::size_t encoded = 0;
  for (auto _ : state) encoded = formats::encode_group(group.blobs, group.content, compressor).bytes.size();
  state.counters["ratio"] = static_cast<double>(size) / static_cast<double>(encoded);
  set_rate(state, size);
}

void decode(State& state, std::size_t size, std::size_t blob_size) {
  const Group group(size, blob_size);
  formats::ZstdCompressor compressor;
  formats::ZstdDecompressor decompressor;
  const auto encoded = formats::encode_group(group.blobs, group.content, compressor);
  for (auto _ : state)
    benchmark::DoNotOptimize(formats::decode_group(encoded.bytes, decompressor).content.data());
  set_rate(state, size);
}

void name(State& state, ObjectFormat format, std::size_t size, std::size_t blob_size) {
  const Group group(size, blob_size);
  formats::ZstdCompressor compressor;
  formats::ZstdDecompressor decompressor;
  auto decoded = formats::decode_group(formats::encode_group(group.blobs, group.content, compressor).bytes,
                                       decompressor);
  for (auto _ : state) formats::name_blobs(format, decoded);
  set_rate(state, size);
}

/// A vat's index of so many made-up places, added a pack at a time.
class Places {
 public:
  explicit Places(std::uint64_t count)
      : index_({dir_ / "index.db", dir_ / "tables"}, ObjectFormat::sha256), count_(count) {
    constexpr std::uint64_t kPack = 100000;
    for (std::uint64_t begin = 0; begin < count; begin += kPack) {
      auto name = base::to_hex(id_of(begin + 1).raw()) + ".zst";
      vat::internal::IndexedPack pack{{0, std::move(name), 1, 1}, {}, {}};
      for (std::uint64_t i = begin; i < std::min(begin + kPack, count); ++i)
        pack.blobs.push_back({id_of(2 * i), {0, {i / 8, 100}, 0, 65536, formats::BlobKind::data, false}});
      index_.put_packs({pack}, vat::internal::Index::Damage::forget);
    }
  }
  /// Even numbers are in the index, odd ones are not.
  static base::ObjectId id_of(std::uint64_t number) {
    base::Buffer raw(32);
    std::uint64_t state = number;  // splitmix64: Steele, Lea, Flood, 2014
    for (std::size_t i = 0; i < raw.size(); i += 8) {
      state += 0x9E3779B97F4A7C15;
      std::uint64_t word = (state ^ state >> 30) * 0xBF58476D1CE4E5B9;
      word = (word ^ word >> 27) * 0x94D049BB133111EB;
      base::store_le(raw.data() + i, word ^ word >> 31);
    }
    return {ObjectFormat::sha256, raw};
  }
  void find(State& state, bool there) {
    index_.begin_reading();
    std::uint64_t number = 0;
    for (auto _ : state) {
      number = (number + 7919) % count_;
      benchmark::DoNotOptimize(index_.find(id_of(2 * number + (there ? 0 : 1))).size());
    }
    index_.end_reading();
  }

 private:
  tests::TempDir dir_;
  vat::internal::Index index_;
  std::uint64_t count_;
};

void add(const std::string& name, std::function<void(State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run));
}

void add_all(const std::string& path) {
  std::vector<std::pair<std::string, chunker::internal::FindCut>> scans{
      {"scalar", chunker::internal::find_cut_scalar}, {"portable", chunker::internal::find_cut_portable}};
  if (base::simd() >= base::Simd::avx2) scans.emplace_back("avx2", chunker::internal::find_avx2());
  if (base::simd() >= base::Simd::avx512) scans.emplace_back("avx512", chunker::internal::find_avx512());
  for (const auto& [code, find] : scans) {
    for (const std::size_t size : {64U << 10, 1U << 20})
      add("scan/" + code + "/" + std::to_string(size), [=, find = find](State& s) { scan(s, find, size); });
    add("cut/" + code, [find = find](State& s) { cut(s, find, std::size_t{1} << 20); });
  }
  for (const auto format : {ObjectFormat::sha256, ObjectFormat::sha1}) {
    const std::string hash = format == ObjectFormat::sha256 ? "sha256" : "sha1";
    const char* const algorithm = format == ObjectFormat::sha256 ? "SHA256" : "SHA1";
    for (const std::size_t size : {4096U, 65536U}) {
      const auto what = hash + "/" + std::to_string(size);
      add("openssl/" + what, [=](State& s) { hash_by_openssl(s, algorithm, size); });
      add("one_by_one/" + what, [=](State& s) { hash_one_by_one(s, format, size); });
      add("many/" + what, [=](State& s) { hash_many(s, format, size); });
    }
    add("file/chunks/" + hash, [=](State& s) { read_file(s, path, format, false); });
    add("file/chunks+content/" + hash, [=](State& s) { read_file(s, path, format, true); });
  }
  // The groups adding makes of chunks and of small files.
  for (const auto& [what, size, blob_size] :
       {std::tuple("chunks", 512U << 10, 64U << 10), std::tuple("small_files", 1U << 20, 4U << 10)}) {
    const std::string group = std::string("group/") + what;
    add(group + "/encode", [=, size = size, blob_size = blob_size](State& s) { encode(s, size, blob_size); });
    add(group + "/decode", [=, size = size, blob_size = blob_size](State& s) { decode(s, size, blob_size); });
    for (const auto format : {ObjectFormat::sha256, ObjectFormat::sha1})
      add(group + "/name/" + (format == ObjectFormat::sha256 ? "sha256" : "sha1"),
          [=, size = size, blob_size = blob_size](State& s) { name(s, format, size, blob_size); });
  }
  const char* const most = std::getenv("SHRUB_BENCH_ROWS");
  for (const std::uint64_t rows :
       {std::uint64_t{100000}, most != nullptr ? std::uint64_t{std::strtoull(most, nullptr, 10)} : 0}) {
    if (rows == 0) continue;
    const auto places = std::make_shared<std::unique_ptr<Places>>();  // shared: functions are copied
    for (const bool there : {true, false})
      add("index/" + std::string(there ? "there/" : "absent/") + std::to_string(rows), [=](State& s) {
        if (*places == nullptr) *places = std::make_unique<Places>(rows);
        (*places)->find(s, there);
      });
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const tests::TempDir dir;
  std::string path = dir / "random";
  if (const char* const given = std::getenv("SHRUB_BENCH_FILE"))
    path = given;
  else
    tests::write_file(path, tests::random_bytes(std::size_t{256} << 20, 4));
  add_all(path);
  benchmark::RunSpecifiedBenchmarks();
}
