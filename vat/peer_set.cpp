// Reading and planning. A reader that misses a blob waits for the ticket of the group it is planned to come
// in; if it is in no plan, its place is looked up in what peers say of their packs. The planner walks the
// root that is expected ahead of its readers, on a thread of its own, and asks for what is not here.
#include "vat/peer_set.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/delta/delta.h"
#include "formats/text/recipe.h"
#include "vat/delta.h"
#include "vat/internal/blob_cache.h"
#include "vat/internal/far_server.h"
#include "vat/internal/fetcher.h"
#include "vat/internal/peer_index.h"
#include "vat/internal/plan.h"
#include "vat/internal/vat_impl.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::MapSection;
using internal::Fetcher;
using internal::Met;
using internal::PackGroup;
using internal::RootMap;

constexpr std::uint64_t kDeltaPart = std::uint64_t{8} << 20;  ///< bytes of a delta that are asked for at once
constexpr std::uint64_t kUselessDelta = std::uint64_t{64}
                                        << 20;               ///< content bytes without one that is needed
constexpr std::uint64_t kMaxTexts = std::uint64_t{1} << 30;  ///< bytes of the texts of one root from a server
constexpr std::uint64_t kSample = std::uint64_t{4} << 20;    ///< bytes that tell how quick a peer is
constexpr std::uint64_t kAhead = std::uint64_t{96}
                                 << 20;  ///< content bytes the planner may be ahead of readers
constexpr std::uint64_t kBatch = std::uint64_t{8} << 20;         ///< stored bytes that are asked for at once
constexpr std::uint64_t kUnconfirmed = std::uint64_t{16} << 20;  ///< … before it is known what they hold

bool may_be_elsewhere(const Error& error) {
  return error.category() == Category::not_found || error.category() == Category::corrupt ||
         error.category() == Category::local || error.category() == Category::refused;
}

}  // namespace

class PeerSet::Impl {
 public:
  Impl(base::ObjectFormat format, std::vector<std::shared_ptr<Vat>> local,
       const std::vector<PeerAddress>& peers, PeerOptions options)
      : format_(format),
        options_(std::move(options)),
        cache_(format, {options_.cache_dir, options_.cache_size, options_.on_note}),
        index_(format, options_.cache_dir),
        peers_(peers, options_),
        fetcher_(format, peers_, options_.threads,
                 [this](internal::FetchedGroup group) { cache_.keep(std::move(group)); }) {
    if (!local.empty())
      local_ =
          std::make_unique<SourceSet>(std::vector<std::shared_ptr<BlobSource>>(local.begin(), local.end()));
    vats_ = std::move(local);
    if (local_ != nullptr && local_->object_format() != format)
      throw Error(Category::usage, "vats of different object formats cannot be used together");
    index_.load_records(peers_);
  }

  ~Impl() {
    stop_planning();
    try {
      index_.save_records(peers_);
    } catch (const Error&) {  // they are guesses anyway
    }
  }

  std::optional<StoredBlob> find(const ObjectId& id) {
    if (auto found = find_here(id)) return found;
    if (planned(id)) return read_planned(id);
    if (const auto place = locate(id); !place.empty()) return place.front().blob;
    // What lies in no pack has to be read to be believed.
    try {
      fault(id);
    } catch (const Error& error) {
      if (error.category() == Category::not_found) return std::nullopt;
      throw;
    }
    return find_here(id);
  }

  void stream(const ObjectId& id, const base::ByteSink& sink) { stream(id, sink, false); }

  std::vector<RecipeClaim> find_recipes(const ObjectId& id) {
    auto found = local_ != nullptr ? local_->find_recipes(id) : std::vector<RecipeClaim>();
    for (const auto& claim : cache_.find_recipes(id)) found.push_back(claim);
    if (found.empty() && fetch_recipe(id)) found = cache_.find_recipes(id);
    return found;
  }

  void note_proven(const ObjectId& content, const ObjectId& recipe, std::uint64_t size) {
    cache_.note_proven(content, recipe, size);
  }

  void stop_planning() {
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

  void expect(const Expected& expected) {
    stop_planning();
    const std::lock_guard lock(mutex_);
    planning_ = true;
    hungry_ = false;
    read_up_to_ = 0;
    planner_ = std::thread([this, expected] {
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
    });
  }

  void fetch(const Expected& expected, bool pin) {
    if (pin) cache_.hold();
    stop_planning();
    Plan the(expected.root);
    the.mode = Plan::Mode::fetch;
    const EndingTurns ending{cache_};
    run(the, expected);
    for (const auto& [id, ticket] : the.tickets) {
      try {
        fetcher_.wait(ticket);
      } catch (const Error& error) {
        fault(id, base::prefixed("blob " + id.hex(), error));
      }
    }
    cache_.publish();
    if (pin) this->pin(expected.root);
  }

  void unpin(const Root& root) { cache_.unpin(root.id()); }

  Travel estimate(const Expected& expected) {
    stop_planning();
    Plan the(expected.root);
    the.mode = Plan::Mode::estimate;
    Travel travel;
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

  void learn(const Root& root, bool content) {
    const std::lock_guard one(learning_);
    stop_planning();
    Plan the(root);
    the.mode = Plan::Mode::learn;
    run(the, {root, {}, {}, content});
  }

  void prefetch(const std::vector<ObjectId>& ids) {
    std::vector<std::pair<ObjectId, internal::PeerPlace>> places;
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

  std::vector<PackedPlace> find_places(const ObjectId& id) {
    std::vector<PackedPlace> places;
    for (const auto& place : locate(id))
      places.push_back({place.group.pack, place.group.place, place.position});
    return places;
  }

  std::vector<PeerReport> report() {
    std::vector<PeerReport> reports;
    const auto records = peers_.records();
    for (std::size_t i = 0; i < records.size(); ++i)
      reports.push_back({peers_.name(i), records[i].requests, records[i].received, records[i].failures,
                         records[i].latency, records[i].rate, records[i].trouble});
    return reports;
  }

  const base::ObjectFormat format_;

 private:
  struct Planned {
    Fetcher::TicketPtr ticket;  ///< nullptr: nobody knows where it lies
    std::uint64_t at = 0;       ///< content bytes planned before it
  };

  void pin(const Root& root) {
    std::vector<ObjectId> blobs;
    internal::Walk walk;
    walk.read = [&](const ObjectId& id) {
      base::Buffer bytes;
      stream(id, [&](base::Bytes part) { base::append(bytes, part); });
      return bytes;
    };
    walk.visit = [&](const Met& met) { blobs.push_back(met.id); };
    internal::walk_root(format_, {root, {}, {}, true}, walk);
    cache_.pin(root.id(), blobs);
  }

  // --- reading
  // -------------------------------------------------------------------------------------------------------

  std::optional<StoredBlob> find_here(const ObjectId& id) {
    if (local_ != nullptr)
      if (const auto found = local_->find(id)) return found;
    return cache_.find(id);
  }

  bool is_here(const ObjectId& id) { return find_here(id).has_value(); }

  void stream(const ObjectId& id, const base::ByteSink& sink, bool of_planner) {
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
    if (local_ != nullptr && from(*local_)) return;
    if (from(cache_)) return;
    if (!of_planner && wait_for_plan(id)) {
      (void)wait_for_planned(id, failure);
      if (from(cache_)) return;
    }
    try {
      fault(id, failure);
    } catch (const Error& error) {
      if (damage && error.category() == Category::not_found)
        throw Error(damage->category(), std::string(damage->what()) + "; " + error.what(), damage->hint());
      throw;
    }
    cache_.stream(id, sink);
  }

  std::optional<Planned> planned(const ObjectId& id) {
    const std::lock_guard lock(mutex_);
    const auto found = planned_.find(id);
    return found == planned_.end() ? std::nullopt : std::optional(found->second);
  }

  std::optional<StoredBlob> read_planned(const ObjectId& id) {
    std::optional<Error> failure;
    (void)wait_for_planned(id, failure);
    if (auto found = find_here(id)) return found;
    fault(id, failure);
    return find_here(id);
  }

  /// True if it was planned and has come; `failure`: why it has not.
  bool wait_for_planned(const ObjectId& id, std::optional<Error>& failure) {
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

  /// A reader that is ahead of the planner waits for it. False if it is waiting for nothing.
  bool wait_for_plan(const ObjectId& id) {
    std::unique_lock lock(mutex_);
    if (!planning_) return false;
    while (planning_ && !planned_.contains(id) && !cache_.find(id)) {
      hungry_ = true;
      moved_.notify_all();
      moved_.wait(lock);
    }
    return true;
  }

  // --- faults
  // --------------------------------------------------------------------------------------------------------

  std::vector<internal::PeerPlace> locate(const ObjectId& id) {
    const std::lock_guard lock(index_mutex_);
    auto places = known_places(id);
    return places.empty() ? index_.locate(peers_, id) : places;
  }

  /// With index_mutex_ held: as far as it is known without asking.
  std::vector<internal::PeerPlace> known_places(const ObjectId& id) {
    auto places = index_.find(id);
    if (const auto known = learnt_.find(id); known != learnt_.end()) {
      const auto& there = known->second;
      places.insert(places.begin(), internal::PeerPlace{{learnt_packs_[there.pack], there.place},
                                                        there.position,
                                                        {there.size, formats::BlobKind::data}});
    }
    return places;
  }

  void remember_place(const Met& met, const RootMap::Place& place) {
    const std::lock_guard lock(index_mutex_);
    const auto [pack, fresh] =
        learnt_numbers_.emplace(place.group.pack, static_cast<std::uint32_t>(learnt_packs_.size()));
    if (fresh) learnt_packs_.push_back(place.group.pack);
    learnt_.insert_or_assign(met.id, Learnt{pack->second, place.position, place.group.place, met.size});
  }

  /// Gets a blob into the cache, wherever it lies. `failure`: of an earlier attempt.
  void fault(const ObjectId& id, std::optional<Error> failure = {}) {
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
    if (index_.fetch_loose(peers_, id, [&](internal::FetchedGroup group) { cache_.keep(std::move(group)); }))
      return;
    if (failure) throw Error(*failure);
    const std::lock_guard lock(index_mutex_);
    throw Error(peers_.failure("blob " + id.hex(), index_.absences(peers_)));
  }

  /// Gets the recipe to which the map of a file leads. False if there is none.
  bool fetch_recipe(const ObjectId& content) {
    Expected expected;
    expected.root.blob = content;
    Plan the(expected.root);
    load_map(the);
    const auto place = the.map != nullptr ? the.map->find(MapSection::recipes, 0) : std::nullopt;
    if (!place) return false;
    const auto ticket = fetcher_.want({place->group}, the.source, true).front();
    const auto group = fetcher_.peek(ticket);
    if (group == nullptr || place->position >= group->blobs.size()) return false;
    const auto header = formats::find_recipe_header(group->blob(place->position), format_);
    if (!header || header->blob != content) return false;
    fetcher_.expect(ticket, place->position, group->blobs[place->position].id);
    fetcher_.wait(ticket);
    return true;
  }

  // --- planning
  // ------------------------------------------------------------------------------------------------------

  struct Plan {
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

  struct Stopped {};  ///< thrown to end a walk early

  /// Walks the root and asks for what is not here.
  void run(Plan& the, const Expected& expected) {
    std::deque<Reading> readings;  // thousands of look-ups
    const auto begin_reading = [&] {
      readings.clear();
      for (const auto& vat : vats_) readings.emplace_back(vat->impl());
      if (cache_.vat() != nullptr) readings.emplace_back(cache_.vat()->impl());
    };
    begin_reading();
    internal::Walk walk;
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
      bool is_needed = met.is_read && !is_here(met.id);
      if (is_needed && fetches(the) && !std::exchange(the.has_turn, true)) {
        cache_.take_turn(the.root.id(), [this] { return stopped(); });
        begin_reading();
        is_needed = !is_here(met.id);  // another process may have got it
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
      internal::walk_root(format_, expected, walk);
      if (the.is_served) take_data_from_server(the);
      flush(the);
    } catch (const Stopped&) {
    }
  }

  /// However a plan ends, other processes need not wait for it any more.
  struct EndingTurns {
    internal::BlobCache& cache;
    ~EndingTurns() {
      try {
        cache.end_turns();
      } catch (const std::exception&) {  // what could not be published is fetched again
      }
    }
  };

  /// When what the plan has asked for has come.
  void end_turns() {
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

  /// Whether it asks for data.
  static bool fetches(const Plan& the) {
    return the.mode == Plan::Mode::ahead || the.mode == Plan::Mode::fetch;
  }

  void ask_for(Plan& the, const Met& met, std::uint64_t index) {
    if (the.delta != nullptr && take_from_delta(the, met.id)) return;
    const auto place = place_of(the, met, index);
    if (the.mode == Plan::Mode::learn && met.section == MapSection::data) {
      if (place) remember_place(met, *place);
      return;
    }
    if (the.mode == Plan::Mode::estimate && met.section == MapSection::data) {
      if (place)
        the.groups.try_emplace({place->group.pack, place->group.place.offset}, place->group.place.size);
      else
        ++the.unknown;
      return;
    }
    if (!place && the.mode == Plan::Mode::fetch && met.section == MapSection::data) return fault(met.id);
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

  /// At the end of a plan what nobody turned out to need is forgotten, and a server that is still talking.
  struct Releasing {
    Impl& impl;
    const Plan& plan;
    ~Releasing() {
      try {
        impl.count_server();
        if (plan.is_served) impl.server_.reset();
        if (!plan.unconfirmed.empty()) impl.fetcher_.release(plan.unconfirmed);
      } catch (const std::exception&) {  // then they are kept until the end
      }
    }
  };

  bool stopped() {
    const std::lock_guard lock(mutex_);
    return stop_plan_;
  }

  std::optional<RootMap::Place> place_of(Plan& the, const Met& met, std::uint64_t index) {
    if (the.map == nullptr || (!the.is_exact && met.section != MapSection::manifest)) return std::nullopt;
    auto place = the.map->find(met.section, index);
    if (!place || met.section == MapSection::data || !the.opened.insert(place->group.pack).second)
      return place;
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

  // --- a server at the far end

  /// False if there is none for this root.
  bool open_server(Plan& the, const Expected& expected) {
    if (!fetches(the) || has_no_server_) return false;
    const auto promising = peers_.by_promise();
    if (promising.empty()) return false;
    try {
      if (server_ == nullptr) {
        server_ = internal::FarServer::start(peers_[promising.front()].host, format_, options_.rate,
                                             [this] { return stopped(); });
        counted_ = 0;
        served_by_ = promising.front();
      }
      if (server_ != nullptr) {
        const bool has_base = expected.base && is_here(expected.base->id());
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

  /// What came from it is of its peer.
  void count_server() {
    if (server_ == nullptr) return;
    peers_.add_received(served_by_, server_->received() - counted_);
    counted_ = server_->received();
  }

  void no_server(const Error& error) {
    if (stopped()) throw Stopped();
    if (error.category() == Category::internal || error.category() == Category::local) throw Error(error);
    server_.reset();
    has_no_server_ = true;
    if (options_.on_note) options_.on_note(std::string(error.what()) + "; its files are read instead");
  }

  static void require_at_most(const Plan& the, std::uint64_t size) {
    if (the.given > size) throw Error(Category::refused, "vat serve: sends more than it was asked for");
  }

  bool take_from_server(Plan& the, const ObjectId& id) {
    try {
      while (!the.of_delta.contains(id) && take_group(the, *the.texts)) require_at_most(the, kMaxTexts);
    } catch (const Error& error) {
      no_server(error);
    }
    return the.of_delta.contains(id);
  }

  /// After all texts were met.
  void take_data_from_server(Plan& the) {
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

  /// It has not what it should: what it has not given is asked for as if there were none.
  void leave_server(Plan& the) {
    the.is_served = false;
    server_.reset();
    has_no_server_ = true;
    open_map(the);
    for (const auto& [met, index] : std::exchange(the.missing, {})) ask_for(the, met, index);
  }

  void open_map(Plan& the) {
    load_map(the);
    if (the.mode != Plan::Mode::learn) open_delta(the);
  }

  void load_map(Plan& the) {
    try {
      const auto& id = the.root.id();
      const auto file = peers_.find_file(
          internal::map_file(id), internal::kMaxMapFile,
          [&](base::Bytes bytes, std::size_t) { the.map = std::make_unique<RootMap>(bytes, format_, id); });
      if (file) the.source = file->peer;
      the.is_exact = the.map != nullptr && the.map->detail() == the.root.detail() &&
                     (!the.root.manifest || the.root.layout);
    } catch (const Error&) {
      the.map.reset();  // what is asked for without it says what is wrong
    }
  }

  // --- deltas
  // --------------------------------------------------------------------------------------------------------

  /// Uses a delta from a root that is here, if it is smaller than what the root brought with it.
  void open_delta(Plan& the) {
    if (the.map == nullptr || !the.is_exact) return;
    std::optional<formats::MapDelta> best;
    for (const auto& delta : the.map->deltas())
      if (delta.size < (best ? best->size : delta.missing) && is_here(delta.from)) best = delta;
    if (!best) return;
    if (the.mode == Plan::Mode::estimate) {
      the.delta_size = best->size;
      throw Stopped();  // all is known
    }
    const auto file = delta_file(best->from, the.root.id());
    auto more = [this, file, peer = the.source, at = std::uint64_t{0},
                 size = best->size](base::Buffer& to) mutable {
      if (at >= size) return false;
      const auto part =
          peers_.read_part(peer, file, {at, std::min(kDeltaPart, size - at), false}, kDeltaPart);
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

  void close_delta(Plan& the, const Error& error) {
    the.delta.reset();
    if (options_.on_note) options_.on_note(std::string("the delta is not used: ") + error.what());
  }

  /// Keeps the next group that it gives. False at the end.
  bool take_group(Plan& the, formats::DeltaReader& from) {
    formats::DeltaGroup group;
    if (!from.next(group)) return false;  // a reader that has all may stop us before we see the end
    if (stopped()) throw Stopped();
    base::Buffer prefix;
    for (const auto& blob : group.prefix) {
      // To fetch what the old root had would cost more than is saved.
      if (!is_here(blob))
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

  /// Reads on in the delta until it has given the blob. False if it does not.
  bool take_from_delta(Plan& the, const ObjectId& id) {
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

  void flush(Plan& the) {
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

  const PeerOptions options_;
  std::vector<std::shared_ptr<Vat>> vats_;  // shared: the writable one is used alone, too
  std::unique_ptr<SourceSet> local_;        ///< they as one; nullptr: none
  internal::BlobCache cache_;
  std::mutex index_mutex_;  ///< guards index_
  internal::PeerIndex index_;
  struct Learnt {
    std::uint32_t pack, position;
    formats::GroupPlace place;
    std::uint64_t size;
  };
  // Guarded by index_mutex_, too:
  std::unordered_map<ObjectId, Learnt> learnt_;
  std::vector<std::string> learnt_packs_;
  std::map<std::string, std::uint32_t> learnt_numbers_;
  internal::Peers peers_;
  Fetcher fetcher_;

  std::mutex learning_;
  // One plan at a time uses these.
  std::unique_ptr<internal::FarServer> server_;
  std::size_t served_by_ = 0;  ///< peer
  std::uint64_t counted_ = 0;  ///< bytes of it
  bool has_no_server_ = false;

  std::mutex mutex_;  ///< guards what follows
  std::condition_variable moved_;
  bool planning_ = false, stop_plan_ = false;
  bool hungry_ = false;        ///< a reader is ahead of the planner
  bool is_far_ahead_ = false;  ///< the planner waits for readers
  std::uint64_t read_up_to_ = 0;
  std::unordered_map<ObjectId, Planned> planned_;
  std::deque<std::pair<std::uint64_t, ObjectId>> planned_order_;
  std::thread planner_;
};

PeerSet::PeerSet(base::ObjectFormat format, std::vector<std::shared_ptr<Vat>> local,
                 std::vector<PeerAddress> peers, PeerOptions options)
    : impl_(std::make_unique<Impl>(format, std::move(local), std::move(peers), std::move(options))) {}
PeerSet::~PeerSet() = default;

namespace {

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
  const auto packs = peers.list_packs(0);
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
  return impl_->find(id);
}
base::Buffer PeerSet::read(const ObjectId& id) {
  base::Buffer bytes;
  impl_->stream(id, [&](base::Bytes part) {
    if (bytes.size() + part.size() > formats::kMaxPackedBlob)
      throw Error(Category::refused,
                  "blob " + id.hex() + ": larger than " + base::human_size(formats::kMaxPackedBlob));
    base::append(bytes, part);
  });
  return bytes;
}
void PeerSet::stream(const ObjectId& id, const base::ByteSink& sink) {
  impl_->stream(id, sink);
}
std::vector<RecipeClaim> PeerSet::find_recipes(const ObjectId& id) {
  return impl_->find_recipes(id);
}
void PeerSet::note_proven(const ObjectId& content, const ObjectId& recipe, std::uint64_t size) {
  impl_->note_proven(content, recipe, size);
}
void PeerSet::expect(const Expected& expected) {
  impl_->expect(expected);
}
void PeerSet::expect_nothing() {
  impl_->stop_planning();
}
void PeerSet::learn(const Root& root, bool content) {
  impl_->learn(root, content);
}
void PeerSet::prefetch(const std::vector<ObjectId>& ids) {
  impl_->prefetch(ids);
}
void PeerSet::fetch(const Expected& expected, bool pin) {
  impl_->fetch(expected, pin);
}
void PeerSet::unpin(const Root& root) {
  impl_->unpin(root);
}
PeerSet::Travel PeerSet::estimate(const Expected& expected) {
  return impl_->estimate(expected);
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
