#include "vat/internal/known_blocks.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/vat_impl.h"

namespace vat::internal {
namespace {

using base::Error;

constexpr std::size_t kMaxCandidates = 8;
constexpr std::size_t kNameSize = 64;  ///< of a pack, in hex

formats::TableShape shape_of(base::ObjectFormat format) {
  return {format == base::ObjectFormat::sha1 ? std::array{'b', 'l', 'k', 's', 's', 'h', 'a', '1'}
                                             : std::array{'b', 'l', 'k', 's', 's', '2', '5', '6'},
          8, 8 + 4 + base::id_size(format)};
}

/// Four sums side by side. What collides is told apart by its id.
std::uint64_t hash_of(const std::byte* block) {
  std::array<std::uint64_t, 4> sums{1, 2, 3, 4};
  for (std::size_t at = 0; at < KnownBlocks::kBlock; at += 32)
    for (std::size_t i = 0; i < 4; ++i)
      sums[i] =
          std::rotl((sums[i] ^ base::load_le<std::uint64_t>(block + at + 8 * i)) * 0x9e3779b97f4a7c15, 29);
  std::uint64_t hash = 0;
  for (const auto sum : sums) hash = std::rotl((hash ^ sum) * 0xbf58476d1ce4e5b9, 31);
  return hash ^ hash >> 32;
}

}  // namespace

void KnownBlocks::load() {
  auto directory = open_own(vat_.impl().dir.get(), kLocal, "blocks");
  const auto lock = base::open_as_parent(directory.get(), "lock");
  while (::flock(lock.get(), LOCK_EX) != 0)
    if (errno != EINTR) base::throw_errno("lock local/blocks", errno);
  tables_.emplace(shape_of(vat_.object_format()), std::move(directory));
  tables_->load();
  std::set<std::string, std::less<>> known;
  for (auto extra : tables_->extras())
    for (; extra.size() >= kNameSize; extra = extra.subspan(kNameSize))
      known.emplace(base::as_chars(extra.first(kNameSize)));
  for (const auto& pack : vat_.impl().with_index([](Index& index) { return index.packs(); }))
    if (const auto name = pack.name.substr(0, kNameSize); !known.contains(name)) read_pack(pack);
}

void KnownBlocks::read_pack(const PackRecord& record) {
  const auto& name = record.name;
  auto& impl = vat_.impl();
  const auto file = base::find_regular_at(impl.dir.get(), std::string(Vat::Impl::kPackDir) + "/" + name);
  const auto pack = impl.read_pack(record);
  if (!file || !pack) return;
  std::map<std::uint64_t, std::vector<const IndexedBlob*>> groups;  // by offset
  for (const auto& blob : pack->blobs) groups[blob.place.group.offset].push_back(&blob);
  base::Buffer records;
  std::array<std::byte, kBlock> block{};
  for (const auto& [offset, blobs] : groups) {
    if (blobs.size() == 1 && blobs.front()->place.size > kBlock) continue;
    if (std::none_of(blobs.begin(), blobs.end(),
                     [](const auto* blob) { return blob->place.kind == formats::BlobKind::data; }))
      continue;
    formats::DecodedGroup group;
    try {
      group = impl.decode(file->get(), blobs.front()->place.group);
    } catch (const Error&) {  // whoever reads it says so
      continue;
    }
    for (const auto* blob : blobs) {
      const auto size = blob->place.size;
      if (blob->place.kind != formats::BlobKind::data || size < kMinSize || size > kMaxSize ||
          blob->place.position >= group.blobs.size())
        continue;
      const auto content = group.blob(blob->place.position);
      block.fill(std::byte{0});
      std::copy_n(content.begin(), std::min(content.size(), kBlock), block.begin());
      base::append_le(records, hash_of(block.data()));
      base::append_le(records, size);
      base::append(records, blob->id.raw());
    }
  }
  const auto size = 8 + 4 + base::id_size(vat_.object_format());
  std::vector<std::size_t> order;
  for (std::size_t at = 0; at < records.size(); at += size) order.push_back(at);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::memcmp(records.data() + a, records.data() + b, size) < 0;
  });
  base::Buffer sorted;
  sorted.reserve(records.size());
  for (const auto at : order) base::append(sorted, base::Bytes(records).subspan(at, size));
  tables_->add(sorted, base::as_bytes(name.substr(0, kNameSize)), {});
}

bool KnownBlocks::is_stored(const Candidate& candidate) {
  return adder_.has(candidate.id);
}

std::vector<KnownBlocks::Candidate> KnownBlocks::look_up(base::Bytes block) {
  if (!tables_) load();
  base::Buffer key;
  base::append_le(key, hash_of(block.data()));
  std::vector<Candidate> found;
  const auto format = vat_.object_format();
  tables_->find(key, [&](base::Bytes record) {
    if (found.size() == kMaxCandidates) return;
    found.push_back(
        {base::ObjectId(format, record.subspan(12)), base::load_le<std::uint32_t>(record.data() + 8)});
  });
  return found;
}

void KnownBlocks::find(base::Bytes block, const std::function<void(const Candidate&)>& visit) {
  std::vector<Candidate> found;
  try {
    found = look_up(block);
  } catch (const Error& error) {
    if (error.category() != base::Category::corrupt) throw;
    // A damaged table: all are made anew from the packs.
    tables_.reset();
    base::remove_tree(open_own(vat_.impl().dir.get(), kLocal, "blocks").get(), formats::TableSet::kList);
    found = look_up(block);
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.size > b.size; });
  for (const auto& candidate : found) visit(candidate);
}

}  // namespace vat::internal
