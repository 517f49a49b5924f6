#include "vat/internal/faults.h"

#include <algorithm>
#include <set>

#include "formats/text/recipe.h"
#include "vat/vat.h"

namespace vat::internal {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::MapSection;

Faults::Faults(base::ObjectFormat format, std::vector<std::shared_ptr<Vat>> local,
               const std::vector<PeerAddress>& peers, const PeerOptions& options)
    : format_(format),
      vats_(std::move(local)),
      cache_(format, {options.cache_dir, options.cache_size, options.on_note}),
      index_(format, options.cache_dir),
      peers_(peers, options),
      fetcher_(format, peers_, options.threads,
               [this](FetchedGroup group) { cache_.keep(std::move(group)); }) {
  if (!vats_.empty())
    local_ =
        std::make_unique<SourceSet>(std::vector<std::shared_ptr<BlobSource>>(vats_.begin(), vats_.end()));
  if (local_ != nullptr && local_->object_format() != format)
    throw Error(Category::usage, "vats of different object formats cannot be used together");
  index_.load_records(peers_);
}

Faults::~Faults() {
  try {
    index_.save_records(peers_);
  } catch (const std::exception&) {  // they are guesses anyway
  }
}

std::optional<StoredBlob> Faults::find_here(const ObjectId& id) {
  if (local_ != nullptr)
    if (const auto found = local_->find(id)) return found;
  return cache_.find(id);
}

std::vector<PeerPlace> Faults::locate(const ObjectId& id) {
  const std::lock_guard lock(index_mutex_);
  auto places = known_places(id);
  return places.empty() ? index_.locate(peers_, id) : places;
}

std::vector<PeerPlace> Faults::known_places(const ObjectId& id) {
  auto places = index_.find(id);
  if (const auto known = learnt_.find(id); known != learnt_.end()) {
    const auto& there = known->second;
    places.insert(places.begin(), PeerPlace{{learnt_packs_[there.pack], there.place},
                                            there.position,
                                            {there.size, formats::BlobKind::data}});
  }
  return places;
}

void Faults::remember_place(const Met& met, const RootMap::Place& place) {
  const std::lock_guard lock(index_mutex_);
  const auto [pack, fresh] =
      learnt_numbers_.emplace(place.group.pack, static_cast<std::uint32_t>(learnt_packs_.size()));
  if (fresh) learnt_packs_.push_back(place.group.pack);
  learnt_.insert_or_assign(met.id, Learnt{pack->second, place.position, place.group.place, met.size});
}

void Faults::fault(const ObjectId& id, std::optional<Error> failure) {
  const auto worse = [&](const Error& error) {
    if (!failure || failure->category() == Category::not_found) failure.emplace(error);
  };
  std::set<std::pair<std::string, std::uint64_t>> tried;
  for (bool any = true; any;) {
    for (const auto& place : locate(id)) {
      if (!tried.emplace(place.group.pack, place.group.place.offset).second) continue;
      const auto ticket = fetcher_.want_missed(place.group, [&] { return is_here(id); });
      if (ticket == nullptr) return;
      fetcher_.expect(ticket, place.position, id);
      try {
        fetcher_.wait(ticket);
        if (is_here(id)) return;
      } catch (const Error& error) {
        worse(base::prefixed("blob " + id.hex(), error));
        const std::lock_guard lock(index_mutex_);
        if (error.category() == Category::wrong_bytes) index_.forget(place.group.pack);
      }
    }
    const std::lock_guard lock(index_mutex_);
    any = index_.update(peers_);
  }
  {
    const std::lock_guard lock(index_mutex_);
    if (const auto trouble = index_.trouble()) worse(base::prefixed("blob " + id.hex(), *trouble));
  }
  if (index_.fetch_loose(peers_, id, [&](FetchedGroup group) { cache_.keep(std::move(group)); })) return;
  if (failure) throw Error(*failure);
  const std::lock_guard lock(index_mutex_);
  throw Error(peers_.failure("blob " + id.hex(), index_.absences(peers_)));
}

bool Faults::fetch_recipe(const ObjectId& content) {
  Root root;
  root.blob = content;
  const auto found = find_map(root);
  const auto place = found.map != nullptr ? found.map->find(MapSection::recipes, 0) : std::nullopt;
  if (!place) return false;
  const auto ticket = fetcher_.want({place->group}, found.peer, true).front();
  const auto group = fetcher_.peek(ticket);
  if (group == nullptr || place->position >= group->blobs.size()) return false;
  const auto header = formats::find_recipe_header(group->blob(place->position), format_);
  if (!header || header->blob != content) return false;
  fetcher_.expect(ticket, place->position, group->blobs[place->position].id);
  fetcher_.wait(ticket);
  return true;
}

FoundMap Faults::find_map(const Root& root) {
  FoundMap found;
  try {
    const auto& id = root.id();
    const auto file = peers_.find_file(map_file(id), kMaxMapFile, [&](base::Bytes bytes, std::size_t) {
      found.map = std::make_unique<RootMap>(bytes, format_, id);
    });
    if (file) found.peer = file->peer;
    found.is_exact =
        found.map != nullptr && found.map->detail() == root.detail() && (!root.manifest || root.layout);
  } catch (const Error&) {
    found.map.reset();  // what is asked for without it says what is wrong
  }
  return found;
}

void Faults::prefetch(const std::vector<ObjectId>& ids) {
  std::vector<std::pair<ObjectId, PeerPlace>> places;
  for (const auto& id : ids) {
    if (is_here(id)) continue;
    const std::lock_guard lock(index_mutex_);
    if (auto known = known_places(id); !known.empty()) places.emplace_back(id, std::move(known.front()));
  }
  if (places.empty()) return;
  std::vector<PackGroup> groups;
  for (const auto& [id, place] : places) groups.push_back(place.group);
  const auto tickets = fetcher_.want(groups, std::nullopt, false);
  for (std::size_t i = 0; i < tickets.size(); ++i)
    fetcher_.expect(tickets[i], places[i].second.position, places[i].first);
}

}  // namespace vat::internal
