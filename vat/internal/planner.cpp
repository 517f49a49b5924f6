#include "vat/internal/planner.h"

#include <algorithm>
#include <map>
#include <set>
#include <system_error>
#include <unordered_set>

#include "formats/base/error.h"
#include "formats/delta/delta.h"
#include "vat/delta.h"
#include "vat/internal/far_server.h"
#include "vat/internal/vat_impl.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::MapSection;

constexpr std::uint64_t kDeltaPart = std::uint64_t{8} << 20;  ///< bytes of a delta that are asked for at once
constexpr std::uint64_t kUselessDelta = std::uint64_t{64}
                                        << 20;               ///< content bytes without one that is needed
constexpr std::uint64_t kMaxTexts = std::uint64_t{1} << 30;  ///< bytes of the texts of one root from a server
constexpr std::uint64_t kAhead = std::uint64_t{96}
                                 << 20;  ///< content bytes the planner may be ahead of readers
constexpr std::uint64_t kBatch = std::uint64_t{8} << 20;         ///< stored bytes that are asked for at once
constexpr std::uint64_t kUnconfirmed = std::uint64_t{16} << 20;  ///< … before it is known what they hold

bool may_be_elsewhere(const Error& error) {
  return error.category() == Category::not_found || error.category() == Category::corrupt ||
         error.category() == Category::local || error.category() == Category::refused;
}

struct Stopped {};  ///< thrown to end a walk early

/// However a plan ends, other processes need not wait for it any more.
struct EndingTurns {
  BlobCache& cache;
  ~EndingTurns() {
    try {
      cache.end_turns();
    } catch (const std::exception&) {  // what could not be published is fetched again
    }
  }
};

}  // namespace

struct Planner::Plan {
  explicit Plan(const Root& of) : root(of) {}
  const Root& root;
  enum class Mode : std::uint8_t {
    ahead,     ///< keeps near to its readers and remembers what comes when
    fetch,     ///< asks for everything
    estimate,  ///< asks for texts only
    learn      ///< the same, and remembers where data lies
  };
  Mode mode = Mode::ahead;
  std::map<std::pair<std::string, std::uint64_t>, std::uint64_t>
      groups;                                 ///< estimate: size by pack and offset
  std::uint64_t unknown = 0, delta_size = 0;  ///< estimate
  std::uint64_t given = 0;                    ///< content bytes of groups from a delta or the server
  std::unique_ptr<formats::DeltaReader> delta;
  std::unordered_set<ObjectId> of_delta;               ///< what it has given, or the server
  bool is_served = false;                              ///< server_ answers for this root
  std::unique_ptr<formats::DeltaReader> texts;         ///< from it
  std::vector<bool> wanted;                            ///< data blobs, by their number
  std::vector<std::pair<Met, std::uint64_t>> missing;  ///< those that are
  std::vector<Fetcher::TicketPtr> unconfirmed;         ///< asked for before it was known what they hold
  bool has_turn = false;                               ///< no other process fetches the same
  bool asked = false;                                  ///< for the map, or a server
  std::unique_ptr<RootMap> map;
  bool is_exact = false;  ///< it is of the same layout, or recipe
  std::size_t source = 0;
  std::array<std::uint64_t, formats::kMapSections> met{};
  std::set<std::string> opened;  ///< packs whose texts were asked for
  std::vector<std::pair<Met, RootMap::Place>> batch;
  std::uint64_t batch_size = 0, planned = 0;
  std::vector<std::pair<ObjectId, Fetcher::TicketPtr>> tickets;
};

/// At the end of a plan what nobody turned out to need is forgotten, and a server that is still talking.
struct Planner::Releasing {
  Planner& planner;
  const Plan& plan;
  ~Releasing() {
    try {
      planner.count_server();
      if (plan.is_served) planner.server_.reset();
      if (!plan.unconfirmed.empty()) planner.fetcher_.release(plan.unconfirmed);
    } catch (const std::exception&) {  // then they are kept until the end
    }
  }
};

Planner::Planner(base::ObjectFormat format, Faults& faults, const PeerOptions& options)
    : format_(format),
      rate_(options.rate),
      on_note_(options.on_note),
      faults_(faults),
      cache_(faults.cache()),
      peers_(faults.peers()),
      fetcher_(faults.fetcher()) {}

Planner::~Planner() {
  stop();
}

std::optional<StoredBlob> Planner::find(const ObjectId& id) {
  if (auto found = faults_.find_here(id)) return found;
  if (planned(id)) return read_planned(id);
  if (const auto place = faults_.locate(id); !place.empty()) return place.front().blob;
  // What lies in no pack has to be read to be believed.
  try {
    faults_.fault(id);
  } catch (const Error& error) {
    if (error.category() == Category::not_found) return std::nullopt;
    throw;
  }
  return faults_.find_here(id);
}

void Planner::stop() {
  {
    std::unique_lock lock(mutex_);
    stop_plan_ = true;
    moved_.notify_all();
  }
  if (planner_.joinable()) {
    fetcher_.drop_queue();  // the planner may wait for some of it
    planner_.join();
    fetcher_.drop_queue();
  }
  const std::lock_guard lock(mutex_);
  stop_plan_ = false;
  planned_.clear();
  planned_order_.clear();
}

void Planner::expect(const Expected& expected) {
  stop();
  const std::lock_guard lock(mutex_);
  hungry_ = false;
  read_up_to_ = 0;
  const auto plan = [this, expected] {
    try {
      Plan the(expected.root);
      run(the, expected);
    } catch (const std::exception&) {
      // Whoever needs what could not be planned for hears of it where it is read.
    }
    end_turns();
    const std::lock_guard over(mutex_);
    planning_ = false;
    moved_.notify_all();
  };
  try {
    planner_ = std::thread(plan);
    planning_ = true;
  } catch (const std::system_error&) {
    // Without a plan each read asks for what it needs.
  }
}

void Planner::fetch(const Expected& expected) {
  stop();
  Plan the(expected.root);
  the.mode = Plan::Mode::fetch;
  const EndingTurns ending{cache_};
  run(the, expected);
  for (const auto& [id, ticket] : the.tickets) {
    try {
      fetcher_.wait(ticket);
    } catch (const Error& error) {
      faults_.fault(id, base::prefixed("blob " + id.hex(), error));
    }
  }
  cache_.publish();
}

PeerSet::Travel Planner::estimate(const Expected& expected) {
  stop();
  Plan the(expected.root);
  the.mode = Plan::Mode::estimate;
  PeerSet::Travel travel;
  run(the, expected);
  if (the.delta_size > 0) {
    travel.size = the.delta_size;
    travel.requests = (the.delta_size + kDeltaPart - 1) / kDeltaPart;
    the.groups.clear();
  }
  travel.unknown = the.unknown;
  const std::string* pack = nullptr;
  std::uint64_t begin = 0, end = 0;
  for (const auto& [place, size] : the.groups) {
    travel.size += size;
    const bool joins = pack != nullptr && *pack == place.first && place.second - end <= Fetcher::kGap &&
                       place.second + size - begin <= Fetcher::kRead;
    if (!joins) {
      ++travel.requests;
      begin = place.second;
    }
    pack = &place.first;
    end = place.second + size;
  }
  if (travel.requests + travel.unknown > 0) travel.from = peers_.best();
  return travel;
}

void Planner::learn(const Root& root, bool content) {
  const std::lock_guard one(learning_);
  stop();
  Plan the(root);
  the.mode = Plan::Mode::learn;
  run(the, {root, {}, {}, content});
}

void Planner::stream(const ObjectId& id, const base::ByteSink& sink, bool of_planner) {
  std::optional<Error> damage;
  const auto from = [&](BlobSource& source) {
    bool begun = false;
    try {
      source.stream(id, [&](base::Bytes bytes) {
        begun = true;
        sink(bytes);
      });
      return true;
    } catch (const Error& error) {
      if (begun || !may_be_elsewhere(error)) throw;
      if (error.category() != Category::not_found) damage.emplace(error);
      return false;
    }
  };
  std::optional<Error> failure;
  if (wait_for_planned(id, failure) && from(cache_)) return;
  if (faults_.local() != nullptr && from(*faults_.local())) return;
  if (from(cache_)) return;
  if (!of_planner && wait_for_plan(id)) {
    (void)wait_for_planned(id, failure);
    if (from(cache_)) return;
  }
  try {
    faults_.fault(id, failure);
  } catch (const Error& error) {
    if (damage && error.category() == Category::not_found)
      throw Error(damage->category(), std::string(damage->what()) + "; " + error.what(), damage->hint());
    throw;
  }
  cache_.stream(id, sink);
}

std::optional<Planner::Planned> Planner::planned(const ObjectId& id) {
  const std::lock_guard lock(mutex_);
  const auto found = planned_.find(id);
  return found == planned_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<StoredBlob> Planner::read_planned(const ObjectId& id) {
  std::optional<Error> failure;
  (void)wait_for_planned(id, failure);
  if (auto found = faults_.find_here(id)) return found;
  faults_.fault(id, failure);
  return faults_.find_here(id);
}

bool Planner::wait_for_planned(const ObjectId& id, std::optional<Error>& failure) {
  const auto there = planned(id);
  if (!there || there->ticket == nullptr) return false;
  {
    const std::lock_guard lock(mutex_);
    read_up_to_ = std::max(read_up_to_, there->at);
    if (is_far_ahead_) moved_.notify_all();
  }
  try {
    fetcher_.wait(there->ticket);
    return true;
  } catch (const Error& error) {
    failure.emplace(base::prefixed("blob " + id.hex(), error));
    return false;  // it may be in another place
  }
}

bool Planner::wait_for_plan(const ObjectId& id) {
  std::unique_lock lock(mutex_);
  if (!planning_) return planned_.contains(id);  // it may have got there since it was asked first
  while (planning_ && !planned_.contains(id) && !cache_.find(id)) {
    hungry_ = true;
    moved_.notify_all();
    moved_.wait(lock);
  }
  return true;
}

void Planner::run(Plan& the, const Expected& expected) {
  std::deque<Reading> readings;  // thousands of look-ups
  const auto begin_reading = [&] {
    readings.clear();
    for (const auto& vat : faults_.vats()) readings.emplace_back(vat->impl());
    if (cache_.vat() != nullptr) readings.emplace_back(cache_.vat()->impl());
  };
  begin_reading();
  Walk walk;
  walk.read = [&](const ObjectId& id) {
    base::Buffer bytes;
    stream(
        id, [&](base::Bytes part) { base::append(bytes, part); }, true);
    return bytes;
  };
  walk.visit = [&](const Met& met) {
    if (stopped()) throw Stopped();
    const auto index = the.met[static_cast<std::size_t>(met.section)]++;
    const bool is_data = met.section == MapSection::data;
    the.planned += met.size;
    bool is_needed = met.is_read && !faults_.is_here(met.id);
    if (is_needed && fetches(the) && !std::exchange(the.has_turn, true)) {
      cache_.take_turn(the.root.id(), [this] { return stopped(); });
      begin_reading();
      is_needed = !faults_.is_here(met.id);  // another process may have got it
      const std::lock_guard lock(mutex_);
      moved_.notify_all();
    }
    if (is_needed && !std::exchange(the.asked, true) && !open_server(the, expected)) open_map(the);
    if (the.is_served && is_data) {
      the.wanted.resize(static_cast<std::size_t>(index) + 1);
      the.wanted.back() = is_needed;
      if (is_needed) the.missing.emplace_back(met, index);
      return;
    }
    if (!is_needed || (the.is_served && take_from_server(the, met.id))) return;
    if (the.is_served) leave_server(the);
    ask_for(the, met, index);
  };
  const Releasing releasing{*this, the};
  try {
    walk_root(format_, expected, walk);
    if (the.is_served) take_data_from_server(the);
    flush(the);
  } catch (const Stopped&) {
  }
}

void Planner::end_turns() {
  const EndingTurns ending{cache_};
  std::vector<Fetcher::TicketPtr> tickets;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, planned] : planned_)
      if (planned.ticket != nullptr) tickets.push_back(planned.ticket);
  }
  for (const auto& ticket : tickets) {
    try {
      fetcher_.wait(ticket);
    } catch (const Error&) {  // its reader is told
    }
  }
}

bool Planner::fetches(const Plan& the) {
  return the.mode == Plan::Mode::ahead || the.mode == Plan::Mode::fetch;
}

void Planner::ask_for(Plan& the, const Met& met, std::uint64_t index) {
  if (the.delta != nullptr && take_from_delta(the, met.id)) return;
  const auto place = place_of(the, met, index);
  if (the.mode == Plan::Mode::learn && met.section == MapSection::data) {
    if (place) faults_.remember_place(met, *place);
    return;
  }
  if (the.mode == Plan::Mode::estimate && met.section == MapSection::data) {
    if (place)
      the.groups.try_emplace({place->group.pack, place->group.place.offset}, place->group.place.size);
    else
      ++the.unknown;
    return;
  }
  if (!place && the.mode == Plan::Mode::fetch && met.section == MapSection::data)
    return faults_.fault(met.id);
  if (!place) {  // its reader looks for it by itself, and need not wait for the plan
    const std::lock_guard lock(mutex_);
    if (the.mode == Plan::Mode::ahead) {
      planned_.insert_or_assign(met.id, Planned{nullptr, the.planned});
      planned_order_.emplace_back(the.planned, met.id);
    }
    moved_.notify_all();
    return;
  }
  the.batch.emplace_back(met, *place);
  the.batch_size += met.section == MapSection::data ? met.size / 2 : kBatch;
  if (the.batch_size >= kBatch) flush(the);
}

bool Planner::stopped() {
  const std::lock_guard lock(mutex_);
  return stop_plan_;
}

std::optional<RootMap::Place> Planner::place_of(Plan& the, const Met& met, std::uint64_t index) {
  if (the.map == nullptr || (!the.is_exact && met.section != MapSection::manifest)) return std::nullopt;
  auto place = the.map->find(met.section, index);
  if (!place || met.section == MapSection::data || !the.opened.insert(place->group.pack).second) return place;
  // One text of a pack that is not here: the others of this root in it will not be either, and what was
  // added with them neither.
  std::vector<PackGroup> groups;
  for (const auto section : {MapSection::manifest, MapSection::layout, MapSection::recipes})
    for (auto& group : the.map->groups_of(section, place->group.pack, kUnconfirmed))
      groups.push_back(std::move(group));
  const auto newest = the.root.manifest ? MapSection::manifest : MapSection::recipes;
  if (the.is_exact && place->group.pack == the.map->first_pack(newest) && fetches(the))
    for (auto& group : the.map->groups_of(MapSection::data, place->group.pack, kUnconfirmed))
      groups.push_back(std::move(group));
  const auto tickets = fetcher_.want(groups, the.source, false);
  the.unconfirmed.insert(the.unconfirmed.end(), tickets.begin(), tickets.end());
  return place;
}

bool Planner::open_server(Plan& the, const Expected& expected) {
  if (!fetches(the) || has_no_server_) return false;
  const auto promising = peers_.by_promise();
  if (promising.empty()) return false;
  try {
    if (server_ == nullptr) {
      server_ =
          FarServer::start(peers_[promising.front()].host, format_, rate_, [this] { return stopped(); });
      counted_ = 0;
      served_by_ = promising.front();
    }
    if (server_ != nullptr) {
      const bool has_base = expected.base && faults_.is_here(expected.base->id());
      the.texts = server_->want(the.root, has_base ? expected.base : std::nullopt);
      if (the.texts != nullptr) the.is_served = true;
      return the.is_served;
    }
  } catch (const Error& error) {
    no_server(error);
  }
  has_no_server_ = true;
  return false;
}

void Planner::count_server() {
  if (server_ == nullptr || server_->received() == counted_) return;
  peers_.add_received(served_by_, server_->received() - counted_);
  counted_ = server_->received();
}

void Planner::no_server(const Error& error) {
  if (stopped()) throw Stopped();
  if (error.category() == Category::internal || error.category() == Category::local) throw Error(error);
  server_.reset();
  has_no_server_ = true;
  if (on_note_) on_note_(std::string(error.what()) + "; its files are read instead");
}

void Planner::require_at_most(const Plan& the, std::uint64_t size) {
  if (the.given > size) throw Error(Category::refused, "vat serve: sends more than it was asked for");
}

bool Planner::take_from_server(Plan& the, const ObjectId& id) {
  try {
    while (!the.of_delta.contains(id) && take_group(the, *the.texts)) require_at_most(the, kMaxTexts);
  } catch (const Error& error) {
    no_server(error);
  }
  return the.of_delta.contains(id);
}

void Planner::take_data_from_server(Plan& the) {
  try {
    while (take_group(the, *the.texts)) require_at_most(the, kMaxTexts);
    if (the.missing.empty()) the.wanted.clear();
    const auto data = server_->want_data(the.wanted);
    auto most = the.given + kUselessDelta;
    for (const auto& [met, index] : the.missing) most += met.size;
    while (data != nullptr && take_group(the, *data)) require_at_most(the, most);
    the.is_served = false;
  } catch (const Error& error) {
    no_server(error);
  }
  std::erase_if(the.missing, [&](const auto& blob) { return the.of_delta.contains(blob.first.id); });
  if (the.is_served || !the.missing.empty()) leave_server(the);
}

void Planner::leave_server(Plan& the) {
  the.is_served = false;
  server_.reset();
  has_no_server_ = true;
  open_map(the);
  for (const auto& [met, index] : std::exchange(the.missing, {})) ask_for(the, met, index);
}

void Planner::open_map(Plan& the) {
  auto found = faults_.find_map(the.root);
  the.map = std::move(found.map);
  the.is_exact = found.is_exact;
  the.source = found.peer;
  if (the.mode != Plan::Mode::learn) open_delta(the);
}

void Planner::open_delta(Plan& the) {
  if (the.map == nullptr || !the.is_exact) return;
  std::optional<formats::MapDelta> best;
  for (const auto& delta : the.map->deltas())
    if (delta.size < (best ? best->size : delta.missing) && faults_.is_here(delta.from)) best = delta;
  if (!best) return;
  if (the.mode == Plan::Mode::estimate) {
    the.delta_size = best->size;
    throw Stopped();  // all is known
  }
  const auto file = delta_file(best->from, the.root.id());
  auto more = [this, file, peer = the.source, at = std::uint64_t{0},
               size = best->size](base::Buffer& to) mutable {
    if (at >= size) return false;
    const auto part = peers_.read_part(peer, file, {at, std::min(kDeltaPart, size - at), false}, kDeltaPart);
    if (!part || part->bytes.empty()) return false;
    base::append(to, part->bytes);
    at += part->bytes.size();
    return true;
  };
  try {
    the.delta = std::make_unique<formats::DeltaReader>(format_, best->from, the.root.id(), std::move(more));
  } catch (const Error& error) {
    close_delta(the, error);
  }
}

void Planner::close_delta(Plan& the, const Error& error) {
  the.delta.reset();
  // That what it begins with is not here, as in a first sync, is no news.
  if (on_note_ && error.category() != Category::not_found)
    on_note_(std::string("the delta is not used: ") + error.what());
}

bool Planner::take_group(Plan& the, formats::DeltaReader& from) {
  formats::DeltaGroup group;
  if (!from.next(group)) return false;  // a reader that has all may stop us before we see the end
  if (stopped()) throw Stopped();
  base::Buffer prefix;
  for (const auto& blob : group.prefix) {
    // To fetch what the old root had would cost more than is saved.
    if (!faults_.is_here(blob))
      throw Error(Category::not_found, "delta: blob " + blob.hex() + " of the old root is not here");
    stream(
        blob,
        [&](base::Bytes bytes) {
          if (prefix.size() + bytes.size() > formats::kMaxDeltaPrefix)
            throw Error(Category::corrupt, "delta: prefix too large");
          base::append(prefix, bytes);
        },
        true);
  }
  formats::ZstdDecompressor decompressor;
  auto content =
      std::make_shared<formats::DecodedGroup>(formats::decode_delta_group(group, prefix, decompressor));
  formats::name_blobs(format_, *content);
  formats::ZstdCompressor compressor(1);
  auto encoded = formats::encode_group(content->blobs, content->content, compressor);
  cache_.keep({std::move(encoded.bytes), content});
  for (const auto& blob : content->blobs) the.of_delta.insert(blob.id);
  the.given += content->content.size();
  const std::lock_guard lock(mutex_);
  moved_.notify_all();
  return true;
}

bool Planner::take_from_delta(Plan& the, const ObjectId& id) {
  const auto before = the.given;
  try {
    while (the.delta != nullptr && !the.of_delta.contains(id)) {
      if (the.given - before > kUselessDelta)
        throw Error(Category::refused, "it does not hold what it should");
      if (!take_group(the, *the.delta)) the.delta.reset();
    }
  } catch (const Error& error) {
    if (error.category() == Category::internal || error.category() == Category::local) throw;
    close_delta(the, error);
  }
  return the.of_delta.contains(id);
}

void Planner::flush(Plan& the) {
  if (the.batch.empty()) return;
  const bool ahead = the.mode == Plan::Mode::ahead;
  std::vector<PackGroup> groups;
  for (const auto& [met, place] : the.batch) groups.push_back(place.group);
  const auto tickets = fetcher_.want(groups, the.source, false);
  {
    std::unique_lock lock(mutex_);
    for (std::size_t i = 0; i < the.batch.size(); ++i) {
      if (!ahead && the.batch[i].first.section == MapSection::data) continue;
      const auto& id = the.batch[i].first.id;
      planned_.insert_or_assign(id, Planned{tickets[i], the.planned});
      planned_order_.emplace_back(the.planned, id);
    }
    moved_.notify_all();
  }
  for (std::size_t i = 0; i < the.batch.size(); ++i) {
    fetcher_.expect(tickets[i], the.batch[i].second.position, the.batch[i].first.id);
    if (!ahead) the.tickets.emplace_back(the.batch[i].first.id, tickets[i]);
  }
  the.batch.clear();
  the.batch_size = 0;
  if (!ahead) return;
  std::unique_lock lock(mutex_);
  is_far_ahead_ = true;
  moved_.wait(lock, [&] { return stop_plan_ || hungry_ || the.planned < read_up_to_ + kAhead; });
  is_far_ahead_ = hungry_ = false;
  // What readers are well past was not asked for, or is in the cache.
  while (!planned_order_.empty() && planned_order_.front().first + kAhead < read_up_to_) {
    planned_.erase(planned_order_.front().second);
    planned_order_.pop_front();
  }
}

}  // namespace vat::internal
