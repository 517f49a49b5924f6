#include "vat/peer_set.h"

#include <algorithm>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/pack/pack.h"
#include "vat/internal/faults.h"
#include "vat/internal/planner.h"
#include "vat/vat.h"

namespace vat {

using base::Category;
using base::Error;
using base::ObjectId;

class PeerSet::Impl {
 public:
  Impl(base::ObjectFormat format, std::vector<std::shared_ptr<Vat>> local,
       const std::vector<PeerAddress>& peers, const PeerOptions& options)
      : format_(format),
        faults_(format, std::move(local), peers, options),
        planner_(format, faults_, options) {}

  std::vector<RecipeClaim> find_recipes(const ObjectId& id) {
    auto found = faults_.local() != nullptr ? faults_.local()->find_recipes(id) : std::vector<RecipeClaim>();
    for (const auto& claim : faults_.cache().find_recipes(id)) found.push_back(claim);
    if (found.empty() && faults_.fetch_recipe(id)) found = faults_.cache().find_recipes(id);
    return found;
  }

  void pin(const Root& root) {
    std::vector<ObjectId> blobs;
    internal::Walk walk;
    walk.read = [&](const ObjectId& id) {
      base::Buffer bytes;
      planner_.stream(id, [&](base::Bytes part) { base::append(bytes, part); });
      return bytes;
    };
    walk.visit = [&](const internal::Met& met) { blobs.push_back(met.id); };
    internal::walk_root(format_, {root, {}, {}, true}, walk);
    faults_.cache().pin(root.id(), blobs);
  }

  std::vector<PackedPlace> find_places(const ObjectId& id) {
    std::vector<PackedPlace> places;
    for (const auto& place : faults_.locate(id))
      places.push_back({place.group.pack, place.group.place, place.position});
    return places;
  }

  std::vector<PeerReport> report() {
    std::vector<PeerReport> reports;
    const auto records = faults_.peers().records();
    for (std::size_t i = 0; i < records.size(); ++i)
      reports.push_back({faults_.peers().name(i), records[i].requests, records[i].received,
                         records[i].failures, records[i].latency, records[i].rate, records[i].trouble});
    return reports;
  }

  const base::ObjectFormat format_;
  internal::Faults faults_;
  internal::Planner planner_;
};

PeerSet::PeerSet(base::ObjectFormat format, std::vector<std::shared_ptr<Vat>> local,
                 const std::vector<PeerAddress>& peers, const PeerOptions& options)
    : impl_(std::make_unique<Impl>(format, std::move(local), peers, options)) {}
PeerSet::~PeerSet() = default;

namespace {

constexpr std::uint64_t kSample = std::uint64_t{4} << 20;  ///< bytes that tell how quick a peer is

/// Throws no_store if there is none.
formats::VatSettings settings_of(internal::Peers& peers) {
  auto settings = peers.settings(0);
  if (!settings) throw Error(Category::no_store, peers.name(0) + ": no vat here (no vat.json)");
  return *settings;
}

}  // namespace

std::vector<PeerReport> known_peers(const std::string& cache_dir) {
  std::vector<PeerReport> all;
  for (const auto format : {base::ObjectFormat::sha256, base::ObjectFormat::sha1})
    for (const auto& [name, record] : internal::PeerIndex(format, cache_dir).records())
      if (std::none_of(all.begin(), all.end(),
                       [&, &known = name](const auto& other) { return other.name == known; }))
        all.push_back({name, 0, 0, 0, record.latency, record.rate, {}});
  return all;
}

PeerTest test_peer(const PeerAddress& peer, const PeerOptions& options) {
  internal::Peers peers({peer}, options);
  PeerTest test;
  test.object_format = settings_of(peers).object_format;
  const auto packs = peers.find_packs(0).value_or(std::vector<std::string>());
  test.packs = packs.size();
  test.latency = peers.records()[0].latency;
  if (packs.empty()) return test;
  const auto begun = std::chrono::steady_clock::now();
  const auto part =
      peers.read_part(0, std::string("primary/pack/") + packs.front() + ".zst", {0, kSample, false}, kSample);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  if (!part)
    throw Error(Category::not_found, peers.name(0) + ": pack " + packs.front() + " is listed, but not there");
  test.ranges = !part->ranges_ignored;
  if (took.count() > 0) test.rate = static_cast<double>(part->bytes.size()) / took.count();
  return test;
}

std::unique_ptr<PeerSet> PeerSet::open(const PeerAddress& peer, const PeerOptions& options) {
  internal::Peers peers({peer}, options);
  const auto settings = settings_of(peers);
  return std::make_unique<PeerSet>(settings.object_format, std::vector<std::shared_ptr<Vat>>(),
                                   std::vector{peer}, options);
}

base::ObjectFormat PeerSet::object_format() const noexcept {
  return impl_->format_;
}
std::optional<StoredBlob> PeerSet::find(const ObjectId& id) {
  return impl_->planner_.find(id);
}
std::optional<StoredBlob> PeerSet::find_here(const ObjectId& id) {
  return impl_->faults_.find_here(id);
}
base::Buffer PeerSet::read(const ObjectId& id) {
  base::Buffer bytes;
  impl_->planner_.stream(id, [&](base::Bytes part) {
    if (bytes.size() + part.size() > formats::kMaxPackedBlob)
      throw Error(Category::refused,
                  "blob " + id.hex() + ": larger than " + base::human_size(formats::kMaxPackedBlob));
    base::append(bytes, part);
  });
  return bytes;
}
void PeerSet::stream(const ObjectId& id, const base::ByteSink& sink) {
  impl_->planner_.stream(id, sink);
}
std::vector<RecipeClaim> PeerSet::find_recipes(const ObjectId& id) {
  return impl_->find_recipes(id);
}
void PeerSet::note_proven(const ObjectId& content, const ObjectId& recipe, std::uint64_t size) {
  impl_->faults_.cache().note_proven(content, recipe, size);
}
std::optional<base::UniqueFd> PeerSet::find_file(const ObjectId& id) {
  return impl_->faults_.local() != nullptr ? impl_->faults_.local()->find_file(id) : std::nullopt;
}
void PeerSet::expect(const Expected& expected) {
  impl_->planner_.expect(expected);
}
void PeerSet::expect_nothing() {
  impl_->planner_.stop();
}
void PeerSet::learn(const Root& root, bool content) {
  impl_->planner_.learn(root, content);
}
void PeerSet::prefetch(const std::vector<ObjectId>& ids) {
  impl_->faults_.prefetch(ids);
}
void PeerSet::fetch(const Expected& expected, bool pin) {
  if (pin) impl_->faults_.cache().hold();
  impl_->planner_.fetch(expected);
  if (pin) impl_->pin(expected.root);
}
void PeerSet::unpin(const Root& root) {
  impl_->faults_.cache().unpin(root.id());
}
PeerSet::Travel PeerSet::estimate(const Expected& expected) {
  return impl_->planner_.estimate(expected);
}
std::vector<PackedPlace> PeerSet::find_places(const ObjectId& id) {
  return impl_->find_places(id);
}
std::vector<std::string> PeerSet::peer_names() const {
  std::vector<std::string> names;
  for (const auto& peer : impl_->report()) names.push_back(peer.name);
  return names;
}
std::uint64_t PeerSet::received() {
  std::uint64_t total = 0;
  for (const auto& peer : impl_->report()) total += peer.received;
  return total;
}
std::vector<PeerReport> PeerSet::report() {
  return impl_->report();
}

}  // namespace vat
