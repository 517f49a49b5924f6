#include "vat/internal/peer_index.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "formats/compression/decoder.h"
#include "vat/internal/vat_impl.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::Statement;

constexpr const char* kSchema =
    "CREATE TABLE peers(name BLOB PRIMARY KEY, latency INTEGER, rate INTEGER) WITHOUT ROWID;";
constexpr std::uint64_t kMaxPackList = std::uint64_t{64} << 20;
constexpr std::uint64_t kTail = std::uint64_t{64} << 10;  ///< bytes of a pack's end that hold most trailers
constexpr std::chrono::seconds kAskAgain{5};
constexpr std::size_t kWorthTables = 4;  ///< packs whose trailers are as many requests
constexpr std::uint64_t kMaxTableList = std::uint64_t{64} << 10;
constexpr std::uint64_t kMaxTable = std::uint64_t{64} << 20;
constexpr std::uint64_t kMaxTrailer = std::uint64_t{256} << 20;

base::Buffer sha256_of(base::Bytes bytes) {
  base::Sha256 hash;
  hash.update(bytes);
  const auto digest = hash.finish();
  return {digest.begin(), digest.end()};
}

template <typename Make>
auto in_directory(const std::string& directory, const Make& make) {
  if (!directory.empty()) {
    try {
      base::make_directories(directory);
      return make(directory);
    } catch (const Error& error) {
      // Without the directory it is as good, only shorter-lived.
      if (error.category() == Category::internal || error.category() == Category::busy) throw;
    }
  }
  return make(std::string());
}

}  // namespace

PeerIndex::PeerIndex(base::ObjectFormat format, const std::string& cache_dir) : format_(format) {
  const auto directory =
      cache_dir.empty() ? std::string() : cache_dir + "/peers-" + std::string(base::to_string(format));
  index_ = in_directory(directory, [&](const std::string& in) {
    const IndexLocation location{in.empty() ? in : in + "/index.db", in.empty() ? in : in + "/index"};
    try {
      return std::make_unique<Index>(location, format);
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;
      location.remove();
      return std::make_unique<Index>(location, format);
    }
  });
  records_ = in_directory(directory, [&](const std::string& in) {
    return std::make_unique<formats::Database>(in.empty() ? ":memory:" : in + "/records.db", "peers", 1,
                                               kSchema);
  });
}

std::vector<PeerPlace> PeerIndex::find(const ObjectId& id) {
  std::vector<PeerPlace> places;
  for (const auto& place : index_->find(id))
    if (const auto name = index_->find_pack_name(place.pack))
      places.push_back({{name->substr(0, 64), place.group}, place.position, {place.size, place.kind}});
  return places;
}

std::vector<PeerPlace> PeerIndex::locate(Peers& peers, const ObjectId& id) {
  auto places = find(id);
  while (places.empty() && update(peers)) places = find(id);
  return places;
}

void PeerIndex::forget(const std::string& pack) {
  index_->forget_pack(pack + ".zst");
}

bool PeerIndex::update(Peers& peers) {
  for (const auto peer : peers.by_promise()) {
    const auto failed = failed_.find(peer);
    if (asked_.contains(peer) || (failed != failed_.end() && Clock::now() < failed->second.again)) continue;
    try {
      std::set<std::string> known;
      for (const auto& pack : index_->packs())
        if (pack.size > 0) known.insert(pack.name.substr(0, 64));
      const auto listed = peers.find_packs(peer).value_or(std::vector<std::string>());
      std::set<std::string> unknown;
      std::copy_if(listed.begin(), listed.end(), std::inserter(unknown, unknown.end()),
                   [&](const auto& pack) { return !known.contains(pack); });
      if (unknown.size() >= kWorthTables && unknown.size() > listed.size() / 2)
        learn_tables(peers, peer, unknown);
      for (const auto& pack : unknown) learn(peers, peer, pack);
      asked_.insert(peer);
      failed_.erase(peer);
    } catch (const Error& error) {
      if (error.category() == Category::internal) throw;
      failed_.insert_or_assign(peer, Failure{error, Clock::now() + kAskAgain});
    }
    return true;
  }
  return false;
}

const std::vector<std::string>& PeerIndex::absences(Peers& peers) {
  for (std::size_t peer = absences_.size(); peer < peers.size(); ++peer) {
    std::string absence = "not there";
    try {
      if (peers.is_usable(peer) && !peers.settings(peer))
        absence = "no vat there (no vat.json)";
      else if (peers.is_usable(peer) && !peers.list(peer, Vat::Impl::kPackDir) &&
               !peers.read_part(peer, "cache/packs", {}, kMaxPackList))
        absence = "not there, as far as can be seen: no list of packs (was cache/ published?)";
    } catch (const Error& error) {
      if (error.category() == Category::internal) throw;
    }
    absences_.push_back(absence);
  }
  return absences_;
}

/// What the tables of its index say; takes those packs out of `unknown`.
void PeerIndex::learn_tables(Peers& peers, std::size_t peer, std::set<std::string>& unknown) {
  const std::string directory = "cache/index/";
  const auto list = peers.read_part(peer, directory + formats::TableSet::kList, {}, kMaxTableList);
  if (!list) return;
  for (std::string_view rest = base::as_chars(list->bytes); !rest.empty();) {
    const auto name = std::string(base::take_field(rest, '\n'));
    const auto digest = base::from_hex(name);
    if (!digest || digest->size() != 32) return;
    const auto end = peers.read_part(peer, directory + name, {0, formats::kTableBlock, true}, kMaxTable);
    if (!end || end->file_size > kMaxTable) continue;  // merged into another since; or trailers cost no more
    const auto table = peers.read_part(peer, directory + name, {}, kMaxTable);
    if (!table || sha256_of(table->bytes) != *digest) continue;  // still being copied, perhaps
    try {
      auto packs = read_index_table(format_, table->bytes);
      std::erase_if(packs,
                    [&](const auto& pack) { return unknown.erase(pack.record.name.substr(0, 64)) == 0; });
      if (!packs.empty()) index_->put_packs(packs, Index::Damage::forget);
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;
    }
    if (unknown.empty()) return;
  }
}

void PeerIndex::learn(Peers& peers, std::size_t peer, const std::string& pack) {
  const auto file = "primary/pack/" + pack + ".zst";
  const auto tail = peers.read_part(peer, file, {0, kTail, true}, kTail);
  if (!tail || tail->bytes.empty()) return;  // listed but absent: as good as not listed
  auto bytes = tail->bytes;
  const auto size = tail->file_size;
  if (bytes.size() > size) return;
  const auto read = [&](std::uint64_t offset, base::MutableBytes buffer) {
    if (offset > size || buffer.size() > size - offset) return false;
    if (offset < size - bytes.size()) {
      if (size - offset > kMaxTrailer) return false;
      const auto more = peers.read_part(peer, file, {offset, size - offset, false}, size - offset);
      if (!more || more->bytes.size() != size - offset) return false;
      bytes = more->bytes;
    }
    const auto at = offset - (size - bytes.size());
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), buffer.size(), buffer.begin());
    return true;
  };
  IndexedPack indexed{{0, pack + ".zst", size, 0}, {}, {}};
  try {
    formats::read_trailer(
        format_, read, size,
        [&](const formats::GroupPlace& group, const std::vector<formats::PackedBlob>& rows) {
          for (std::uint32_t i = 0; i < rows.size(); ++i)
            indexed.blobs.push_back({rows[i].id, {0, group, i, rows[i].size, rows[i].kind, false}});
        });
  } catch (const Error& error) {
    if (error.category() != Category::corrupt) throw;
    return;  // still being copied there, perhaps
  }
  index_->put_packs({indexed}, Index::Damage::forget);
}

bool PeerIndex::fetch_loose(Peers& peers, const ObjectId& id, const std::function<void(FetchedGroup)>& keep) {
  const auto hex = id.hex();
  const auto base = "primary/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".blob";
  std::optional<Error> failure;
  for (const auto codec : {formats::Codec::none, formats::Codec::zstd, formats::Codec::gzip,
                           formats::Codec::xz, formats::Codec::bzip2}) {
    base::Buffer content;
    const auto check = [&](base::Bytes bytes, std::size_t) {
      const auto decoder = formats::make_decoder(codec, [&](base::MutableBytes buffer) {
        const auto count = std::min(buffer.size(), bytes.size());
        std::copy_n(bytes.begin(), count, buffer.begin());
        bytes = bytes.subspan(count);
        return count;
      });
      content.clear();
      base::Buffer buffer(std::size_t{256} << 10);
      while (const std::size_t count = decoder->read(buffer)) {
        if (content.size() + count > formats::kMaxPackedBlob)
          throw Error(Category::refused, "too large to be fetched");
        base::append(content, base::Bytes(buffer).subspan(0, count));
      }
      if (base::hash_blob(format_, content) != id) throw Error(Category::corrupt, "does not match its name");
    };
    try {
      if (!peers.find_file(base + std::string(formats::suffix_of(codec)), formats::kMaxPackedBlob + (1 << 16),
                           check))
        continue;
    } catch (const Error& error) {
      failure.emplace(error);
      continue;
    }
    formats::ZstdCompressor compressor(formats::kDefaultLevel);
    auto group = formats::encode_group(
        {{id, static_cast<std::uint32_t>(content.size()), formats::BlobKind::data}}, content, compressor);
    auto decoded = std::make_shared<formats::DecodedGroup>();
    decoded->blobs = group.blobs;
    decoded->offsets = {0};
    decoded->content = std::move(content);
    keep({std::move(group.bytes), std::move(decoded)});
    return true;
  }
  if (failure) throw Error(base::prefixed("blob " + hex, *failure));
  return false;
}

std::vector<std::pair<std::string, PeerRecord>> PeerIndex::records() {
  std::vector<std::pair<std::string, PeerRecord>> all;
  Statement row(*records_, "SELECT name,latency,rate FROM peers ORDER BY name");
  while (row.step()) {
    PeerRecord record;
    record.latency = static_cast<double>(row.integer(1)) / 1e6;
    record.rate = static_cast<double>(row.integer(2));
    all.emplace_back(base::as_chars(row.bytes(0)), record);
  }
  return all;
}

void PeerIndex::load_records(Peers& peers) {
  for (std::size_t peer = 0; peer < peers.size(); ++peer) {
    Statement row(*records_, "SELECT latency,rate FROM peers WHERE name=?");
    row.bind(1, base::as_bytes(peers.name(peer)));
    PeerRecord record;
    if (!row.step()) continue;
    record.latency = static_cast<double>(row.integer(0)) / 1e6;
    record.rate = static_cast<double>(row.integer(1));
    peers.set_record(peer, record);
  }
}

void PeerIndex::save_records(Peers& peers) {
  const auto records = peers.records();
  for (std::size_t peer = 0; peer < records.size(); ++peer) {
    if (records[peer].latency <= 0 && records[peer].rate <= 0) continue;
    Statement(*records_, "INSERT OR REPLACE INTO peers VALUES(?,?,?)")
        .bind(1, base::as_bytes(peers.name(peer)))
        .bind(2, static_cast<std::int64_t>(records[peer].latency * 1e6))
        .bind(3, static_cast<std::int64_t>(records[peer].rate))
        .run();
  }
}

}  // namespace vat::internal
