// Everything about peers, reads and the queue happens on the loop's thread; askers post to it and wait. A
// group is decoded and hashed on a worker, which also keeps it, and then tells the loop.
//
// A ticket (one group of one pack) goes queued → reading → checking → kept, back to queued when a read fails
// or its bytes are wrong. One that failed, was dropped or released is "kept" to the queue, which passes over
// it.
#include "vat/internal/fetcher.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "formats/base/hash.h"

namespace vat::internal {

using base::Category;
using base::Error;
using base::ObjectId;
using std::chrono::milliseconds;

namespace {

constexpr std::uint64_t kSmallRead = std::uint64_t{512} << 10;  ///< … of a peer of which nothing is known
constexpr std::uint64_t kUnconfirmed = std::uint64_t{64}
                                       << 20;                 ///< content bytes of groups nobody expects yet
constexpr std::uint64_t kInFlight = std::uint64_t{16} << 20;  ///< bytes asked for at a time
constexpr std::uint64_t kChecking = std::uint64_t{16} << 20;  ///< bytes waiting to be decoded
constexpr std::size_t kMaxNames = 10'000'000;
constexpr std::uint64_t kMaxList = std::uint64_t{64} << 20;  ///< bytes of a list of names
constexpr unsigned kAttempts = 3;                            ///< of one peer for one group
constexpr unsigned kDead = 5;  ///< failures in a row after which it is taken for dead
constexpr std::chrono::seconds kDeadFor{30};
constexpr unsigned kBreaker = 3;         ///< failures in a row after which a peer is left alone for a while
constexpr double kDefaultLatency = 0.1;  ///< seconds
constexpr double kDefaultRate = 8e6;     ///< bytes a second
constexpr double kWeight = 0.3;          ///< of the newest measurement
constexpr milliseconds kWatch{50}, kRaceStep{300};

Category category_of(bool wrong, bool denied, bool failed, bool forbidden) {
  return wrong       ? Category::wrong_bytes
         : denied    ? Category::authentication
         : failed    ? Category::network
         : forbidden ? Category::refused
                     : Category::not_found;
}

double seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string digest_of(base::Bytes bytes) {
  base::Sha256 hash;
  hash.update(bytes);
  return base::to_hex(hash.finish());
}

double mean(double before, double now) {
  return before <= 0 ? now : before + kWeight * (now - before);
}

}  // namespace

struct Fetcher::Peer {
  explicit Peer(const PeerAddress& address, std::size_t number) : host(address), index(number) {}
  Host host;
  std::size_t index;
  PeerRecord record;
  std::optional<TransferEnd::Kind> closed;  ///< it is asked no more: authentication or refused
  unsigned failures_in_row = 0;
  Clock::time_point open_at{};  ///< not asked before
  std::set<PackNumber> lacks;
  bool ignores_ranges = false;
  unsigned reads = 0;
  std::uint64_t outstanding = 0;  ///< bytes asked for and not come
  Clock::time_point busy_since{};
  std::uint64_t busy_bytes = 0;
  Clock::time_point dead_until{};  ///< it failed too often to be asked before
  [[nodiscard]] bool is_usable() const { return !record.banned && !closed && dead_until <= Clock::now(); }
  [[nodiscard]] bool is_open() const { return open_at <= Clock::now(); }
};

struct Fetcher::Ticket {
  PackGroup group;
  Key key{};
  enum class State : std::uint8_t { queued, reading, checking, kept };
  State state = State::queued;                 // the loop
  std::optional<std::size_t> source;           ///< the peer whose map led here
  unsigned readers = 0;                        ///< reads under way that bring it
  std::map<std::size_t, unsigned> attempts;    ///< by peer
  std::map<std::size_t, std::string> digests;  ///< of wrong bytes, by peer
  std::set<std::size_t> suspects;              ///< that sent sound groups, but others
  unsigned askers = 0;                         ///< how often it was asked for
  std::map<std::size_t, std::string> answers;  ///< why not, by peer
  bool wrong = false, failed = false, denied = false, forbidden = false;

  // Guarded by Fetcher::mutex_:
  std::vector<std::pair<std::uint32_t, ObjectId>> expected;
  std::shared_ptr<const formats::DecodedGroup> content;  ///< come, until it is kept
  base::Buffer bytes;                                    ///< likewise
  bool is_kept = false, is_unwanted = false;
  std::size_t from = 0;  ///< the peer that sent it
  std::optional<Error> failure;

  /// What does not fit, or nothing.
  [[nodiscard]] std::string mismatch(const formats::DecodedGroup& group_content) const {
    for (const auto& [position, id] : expected) {
      if (position >= group_content.blobs.size()) return "the group holds fewer blobs than it should";
      if (group_content.blobs[position].id != id) return "blob " + id.hex() + " is not what it should be";
    }
    return {};
  }
};

struct Fetcher::Read {
  std::uint64_t number = 0;
  Peer* peer = nullptr;
  std::vector<TicketPtr> tickets;  ///< in the order of their places
  std::size_t next = 0;            ///< the ticket whose bytes come now
  std::uint64_t position = 0;      ///< in the pack, of the next byte that comes
  std::uint64_t end = 0;
  base::Buffer group;  ///< what has come of that ticket
  Transfers::Id transfer = 0;
  Clock::time_point started = Clock::now();
  std::uint64_t received = 0;
  bool hedged = false;  ///< another read has been started for what is left
};

struct Fetcher::FileRace {
  std::string path;
  std::uint64_t max_size;
  std::function<void(base::Bytes, std::size_t)> is_good;
  std::vector<Peer*> left;                     ///< not asked yet, best last
  std::map<Transfers::Id, std::size_t> asked;  ///< under way
  std::map<std::size_t, unsigned> attempts;
  Transfers::Id timer = 0;
  std::optional<Error> failure;
  std::promise<std::optional<File>> result;
  bool over = false;
};

Fetcher::Fetcher(base::ObjectFormat format, std::vector<PeerAddress> peers, Options options, Keep keep)
    : format_(format), options_(std::move(options)), keep_(std::move(keep)), transfers_(options_.limits) {
  for (const auto& address : peers) peers_.push_back(std::make_unique<Peer>(address, peers_.size()));
  pool_ = std::make_unique<base::WorkerPool>(
      options_.threads != 0 ? options_.threads : std::max(1U, std::thread::hardware_concurrency()));
}

Fetcher::~Fetcher() {
  transfers_.call([this] { stopping_ = true; });
  pool_.reset();
}

void Fetcher::note(const std::string& text) {
  if (options_.on_note) options_.on_note(text);
}

// --- what askers call
// ------------------------------------------------------------------------------------------------

std::vector<Fetcher::TicketPtr> Fetcher::want(const std::vector<PackGroup>& groups,
                                              std::optional<std::size_t> source, bool urgent) {
  return transfers_.call([&] {
    std::vector<TicketPtr> result;
    for (const auto& group : groups) {
      const Key key{number_of(group.pack), group.place.offset, group.place.size};
      auto& ticket = tickets_[key];
      if (ticket == nullptr) {
        ticket = std::make_shared<Ticket>();
        ticket->group = group;
        ticket->key = key;
        ticket->source = source;
        queue_.push_back(ticket);
      }
      ++ticket->askers;
      if (urgent && ticket->state == Ticket::State::queued) queue_.push_front(ticket);
      result.push_back(ticket);
    }
    pump();
    return result;
  });
}

void Fetcher::expect(const TicketPtr& ticket, std::uint32_t position, const ObjectId& id) {
  FetchedGroup group;
  Checked wrong;
  {
    const std::lock_guard lock(mutex_);
    if (ticket->is_kept) return;  // whether it holds that, its readers see
    ticket->expected.emplace_back(position, id);
    if (ticket->content == nullptr) return;  // not come yet, or being kept just now
    group = take_unconfirmed(*ticket);
    wrong.damage = ticket->mismatch(*group.content);
  }
  if (wrong.damage.empty()) return keep(ticket, std::move(group));
  wrong.digest = digest_of(group.bytes);
  transfers_.post([this, ticket, wrong, from = ticket->from] {
    wrong_bytes(*peers_[from], ticket, wrong);
    pump();
  });
}

/// With mutex_ held.
FetchedGroup Fetcher::take_unconfirmed(Ticket& ticket) {
  if (ticket.content != nullptr) unconfirmed_ -= ticket.content->content.size();
  return {std::exchange(ticket.bytes, {}), std::exchange(ticket.content, nullptr)};
}

void Fetcher::keep(const TicketPtr& ticket, FetchedGroup group) {
  std::optional<Error> failure;
  try {
    keep_(std::move(group));
  } catch (const Error& error) {
    failure.emplace(error);
  } catch (const std::exception& error) {
    failure.emplace(Category::local, error.what());
  }
  settle(ticket, failure);
  transfers_.post([this, ticket] {
    ticket->state = Ticket::State::kept;
    forget(*ticket);
  });
}

void Fetcher::settle(const TicketPtr& ticket, std::optional<Error> failure) {
  {
    const std::lock_guard lock(mutex_);
    (void)take_unconfirmed(*ticket);
    ticket->expected = {};
    ticket->is_kept = !failure;
    ticket->failure = std::move(failure);
  }
  settled_.notify_all();
}

void Fetcher::wait(const TicketPtr& ticket) {
  std::unique_lock lock(mutex_);
  settled_.wait(lock, [&] { return ticket->is_kept || ticket->failure; });
  if (ticket->failure) throw Error(*ticket->failure);
}

void Fetcher::release(const std::vector<TicketPtr>& tickets) {
  transfers_.call([&] {
    for (const auto& ticket : tickets) {
      if (--ticket->askers > 0) continue;
      const std::lock_guard lock(mutex_);
      if (ticket->is_kept || !ticket->expected.empty()) continue;
      ticket->is_unwanted = true;
      (void)take_unconfirmed(*ticket);
      forget(*ticket);
      if (ticket->state == Ticket::State::queued)
        ticket->state = Ticket::State::kept;  // the queue passes over it
    }
  });
}

/// Whoever asks for it again gets another ticket.
void Fetcher::forget(const Ticket& ticket) {
  const auto known = tickets_.find(ticket.key);
  if (known != tickets_.end() && known->second.get() == &ticket) tickets_.erase(known);
}

std::shared_ptr<const formats::DecodedGroup> Fetcher::peek(const TicketPtr& ticket) {
  std::unique_lock lock(mutex_);
  settled_.wait(lock, [&] { return ticket->content != nullptr || ticket->is_kept || ticket->failure; });
  if (ticket->failure) throw Error(*ticket->failure);
  return ticket->is_kept ? nullptr : ticket->content;
}

void Fetcher::drop_queue() {
  transfers_.call([this] {
    for (const auto& ticket : queue_) {
      if (ticket->state != Ticket::State::queued) continue;
      ticket->state = Ticket::State::kept;
      forget(*ticket);
      settle(ticket, Error(Category::network, "no longer wanted"));  // who still waits asks again
    }
    queue_.clear();
  });
}

std::vector<std::size_t> Fetcher::by_promise() {
  return transfers_.call([&] {
    std::vector<std::size_t> all;
    for (const auto* peer : promising()) all.push_back(peer->index);
    return all;
  });
}

std::string Fetcher::best_peer() {
  return transfers_.call([&] {
    const auto all = promising();
    return all.empty() ? std::string() : all.front()->host.name();
  });
}

const std::string& Fetcher::peer_name(std::size_t peer) const {
  return peers_[peer]->host.name();
}

bool Fetcher::is_usable(std::size_t peer) {
  return transfers_.call([&] { return peers_[peer]->is_usable(); });
}

Error Fetcher::failure(const std::string& what, const std::vector<std::string>& absences) {
  return transfers_.call([&] {
    bool wrong = false, denied = false, failed = false, forbidden = false;
    std::string answers, to_trust;
    for (const auto& peer : peers_) {
      if (peer->closed == TransferEnd::Kind::refused && to_trust.empty()) to_trust = peer->host.name();
      wrong = wrong || peer->record.banned;
      denied = denied || peer->closed == TransferEnd::Kind::authentication;
      forbidden = forbidden || peer->closed == TransferEnd::Kind::refused;
      const bool silent = !peer->record.banned && !peer->closed && peer->failures_in_row > 0;
      failed = failed || silent;
      answers += (answers.empty() ? "" : "; ") + peer->host.name() + ": " +
                 (!peer->is_usable() || silent ? peer->record.trouble : absences[peer->index]);
    }
    return Error(category_of(wrong, denied, failed, forbidden),
                 what + ": " + (answers.empty() ? "not here, and no peer to ask" : answers),
                 answers.empty() ? "fetch it before: shrub fetch SHRUB"
                 : to_trust.empty()
                     ? std::string()
                     : "if it is yours: shrub trust " + to_trust + " (or --vat " + to_trust + ")");
  });
}

void Fetcher::ban(std::size_t peer, const std::string& why) {
  transfers_.call([&] {
    ban_on_loop(*peers_[peer], why);
    pump();
  });
}

std::vector<PeerRecord> Fetcher::records() {
  return transfers_.call([&] {
    std::vector<PeerRecord> all;
    for (const auto& peer : peers_) all.push_back(peer->record);
    return all;
  });
}

void Fetcher::set_record(std::size_t peer, const PeerRecord& record) {
  transfers_.call([&] {
    peers_[peer]->record.latency = record.latency;
    peers_[peer]->record.rate = record.rate;
  });
}

Fetcher::PackNumber Fetcher::number_of(const std::string& pack) {
  const auto [place, fresh] = pack_numbers_.emplace(pack, static_cast<PackNumber>(packs_.size()));
  if (fresh) packs_.push_back(pack);
  return place->second;
}

// --- choosing
// --------------------------------------------------------------------------------------------------------

double Fetcher::finish_time(const Peer& peer, std::uint64_t size) const {
  const double latency = peer.record.latency > 0 ? peer.record.latency : kDefaultLatency;
  double rate = peer.record.rate;
  if (rate <= 0) {
    for (const auto& other : peers_) rate = std::max(rate, other->record.rate);
    if (rate <= 0) rate = kDefaultRate;
  }
  return latency + static_cast<double>(peer.outstanding + size) / rate;
}

std::uint64_t Fetcher::read_size(const Peer& peer) const {
  if (peer.ignores_ranges) return UINT64_MAX;
  return peer.record.rate <= 0 && peers_.size() > 1 ? kSmallRead : kRead;
}

Fetcher::Choice Fetcher::choose(const Ticket& ticket, std::uint64_t size, const Peer* besides) const {
  Choice choice;
  double best = 0;
  for (const auto& peer : peers_) {
    if (peer.get() == besides || !peer->is_usable() || peer->lacks.contains(std::get<0>(ticket.key)))
      continue;
    const auto tried = ticket.attempts.find(peer->index);
    if (tried != ticket.attempts.end() && tried->second >= kAttempts) continue;
    choice.later = true;
    if (!peer->is_open()) continue;
    // One of which nothing is known shows with one read what it is worth.
    if (peer->record.rate <= 0 && peers_.size() > 1 && peer->reads > 0) continue;
    const double time = finish_time(*peer, size);
    if (choice.peer != nullptr && time >= best) continue;
    best = time;
    choice.peer = peer.get();
  }
  return choice;
}

std::vector<Fetcher::TicketPtr> Fetcher::gather(const TicketPtr& head, std::uint64_t size) const {
  std::vector<TicketPtr> tickets{head};
  const auto begin = head->group.place.offset;
  auto end = begin + head->group.place.size;
  for (auto next = tickets_.upper_bound(head->key); next != tickets_.end(); ++next) {
    const auto& [key, ticket] = *next;
    const auto& place = ticket->group.place;
    if (std::get<0>(key) != std::get<0>(head->key) || place.offset < end || place.offset - end > kGap ||
        place.offset + place.size - begin > size)
      break;
    if (ticket->state != Ticket::State::queued) continue;
    tickets.push_back(ticket);
    end = place.offset + place.size;
  }
  return tickets;
}

void Fetcher::pump() {
  std::deque<TicketPtr> later;
  while (!queue_.empty() && in_flight_ < kInFlight && verifying_ < kChecking) {
    const auto head = queue_.front();
    if (head->state != Ticket::State::queued) {
      queue_.pop_front();
      continue;
    }
    const auto choice = choose(*head, head->group.place.size, nullptr);
    if (choice.peer == nullptr) {
      queue_.pop_front();
      if (choice.later)
        later.push_back(head);  // its peers are left alone just now; the watch comes back to it
      else
        give_up(head);
      continue;
    }
    // The best is worth waiting for.
    if (choice.peer->reads >= choice.peer->host.parallel_reads() ||
        (choice.peer->ignores_ranges && choice.peer->reads > 0))
      break;
    start_read(*choice.peer, gather(head, read_size(*choice.peer)));
  }
  queue_.insert(queue_.begin(), later.begin(), later.end());
  keep_watching();
}

void Fetcher::start_read(Peer& peer, std::vector<TicketPtr> tickets) {
  auto read = std::make_unique<Read>();
  read->number = ++last_read_;
  read->peer = &peer;
  read->position = tickets.front()->group.place.offset;
  const auto& last = tickets.back()->group.place;
  read->end = last.offset + last.size;
  for (const auto& ticket : tickets) {
    ticket->state = Ticket::State::reading;
    ++ticket->readers;
    ++ticket->attempts[peer.index];
  }
  read->tickets = std::move(tickets);
  auto transfer = peer.host.get("primary/pack/" + packs_[std::get<0>(read->tickets.front()->key)] + ".zst",
                                {read->position, read->end - read->position, false});
  Read& the = *read;
  transfer.on_bytes = [this, &the](base::Bytes bytes) { return take_bytes(the, bytes); };
  transfer.on_end = [this, &the](const TransferEnd& end) {
    end_read(the, end);
    pump();
  };
  const auto size = read->end - read->position;
  in_flight_ += size;
  if (peer.reads++ == 0) {
    peer.busy_since = Clock::now();
    peer.busy_bytes = 0;
  }
  peer.outstanding += size;
  ++peer.record.requests;
  reads_.emplace(the.number, std::move(read));
  the.transfer = transfers_.start(std::move(transfer));
}

/// Runs within libcurl: starts and cancels nothing.
bool Fetcher::take_bytes(Read& read, base::Bytes bytes) {
  read.received += bytes.size();
  read.peer->busy_bytes += bytes.size();
  read.peer->record.received += bytes.size();
  in_flight_ -= bytes.size();
  read.peer->outstanding -= bytes.size();
  while (!bytes.empty() && read.next < read.tickets.size()) {
    const auto& ticket = read.tickets[read.next];
    const auto& place = ticket->group.place;
    if (read.position < place.offset) {
      const auto count =
          static_cast<std::size_t>(std::min<std::uint64_t>(place.offset - read.position, bytes.size()));
      bytes = bytes.subspan(count);
      read.position += count;
      continue;
    }
    if (read.group.empty()) read.group.reserve(place.size);
    const auto part = bytes.subspan(0, std::min<std::size_t>(place.size - read.group.size(), bytes.size()));
    base::append(read.group, part);
    bytes = bytes.subspan(part.size());
    read.position += part.size();
    if (read.group.size() < place.size) break;
    auto whole = std::exchange(read.group, {});
    ++read.next;
    --ticket->readers;
    if (ticket->state != Ticket::State::reading) continue;  // another read was first
    ticket->state = Ticket::State::checking;
    verify(ticket, read.peer->index, std::move(whole));
  }
  return true;
}

void Fetcher::close_read(std::uint64_t number) {
  const auto found = reads_.find(number);
  if (found == reads_.end()) return;
  const auto read = std::move(found->second);
  reads_.erase(found);
  auto& peer = *read->peer;
  const auto missing = (read->end - read->tickets.front()->group.place.offset) - read->received;
  in_flight_ -= missing;
  peer.outstanding -= missing;
  --peer.reads;
  const auto busy = seconds(Clock::now() - peer.busy_since);
  if (peer.busy_bytes >= kSmallRead / 8 && busy > 0) {
    peer.record.rate = mean(peer.record.rate, static_cast<double>(peer.busy_bytes) / busy);
    peer.busy_since = Clock::now();
    peer.busy_bytes = 0;
  }
  // Last first, so that they stand in their order at the front of the queue.
  for (auto at = read->tickets.size(); at-- > read->next;) {
    const auto& ticket = read->tickets[at];
    if (--ticket->readers == 0 && ticket->state == Ticket::State::reading) requeue(ticket);
  }
}

void Fetcher::end_read(Read& read, const TransferEnd& end) {
  auto& peer = *read.peer;
  using Kind = TransferEnd::Kind;
  if (end.ranges_ignored) peer.ignores_ranges = true;
  if (end.kind == Kind::done) {
    note_success(peer, end);
  } else {
    for (auto at = read.next; at < read.tickets.size(); ++at) {
      auto& ticket = *read.tickets[at];
      ticket.answers[peer.index] = end.message;
      if (end.kind == Kind::failed || end.kind == Kind::range) ticket.failed = true;
    }
    if (end.kind == Kind::absent || end.kind == Kind::range)
      peer.lacks.insert(std::get<0>(read.tickets.front()->key));  // range: it is still being copied there
    else
      note_failure(peer, end);
  }
  // Those for which the read failed go to the front of the queue in their order.
  close_read(read.number);
}

void Fetcher::requeue(const TicketPtr& ticket) {
  const auto known = tickets_.find(ticket->key);
  if (known == tickets_.end() || known->second != ticket) {  // nobody wants it any more
    ticket->state = Ticket::State::kept;
    return;
  }
  ticket->state = Ticket::State::queued;
  queue_.push_front(ticket);
}

void Fetcher::note_success(Peer& peer, const TransferEnd& end) {
  peer.failures_in_row = 0;
  if (end.first_byte.count() > 0) peer.record.latency = mean(peer.record.latency, seconds(end.first_byte));
}

void Fetcher::note_failure(Peer& peer, const TransferEnd& end) {
  using Kind = TransferEnd::Kind;
  ++peer.record.failures;
  peer.record.trouble = end.message;
  if (end.kind == Kind::authentication || end.kind == Kind::refused) {
    if (!peer.closed) note(peer.host.name() + ": " + end.message + "; asked no more");
    peer.closed = end.kind;
    return;
  }
  peer.record.rate /= 2;
  ++peer.failures_in_row;
  if (peer.failures_in_row >= kDead) {
    if (peer.failures_in_row == kDead)
      note(peer.host.name() + ": " + end.message + "; not asked for a while");
    peer.dead_until = Clock::now() + kDeadFor;
    return;
  }
  if (end.wait) peer.open_at = Clock::now() + std::min<Clock::duration>(*end.wait, std::chrono::seconds(30));
  if (end.wait || peer.failures_in_row < kBreaker) return;
  const auto power = std::min(peer.failures_in_row - kBreaker, 4U);
  const double pause = 0.5 * (1U << power) * std::uniform_real_distribution<>(0.75, 1.25)(random_);
  peer.open_at =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(pause));
}

void Fetcher::give_up(const TicketPtr& ticket) {
  std::string answers;
  for (const auto& peer : peers_) {
    std::string answer;
    if (const auto said = ticket->answers.find(peer->index); said != ticket->answers.end())
      answer = said->second;
    if (peer->record.banned) ticket->wrong = true;
    if (peer->closed == TransferEnd::Kind::authentication) ticket->denied = true;
    if (peer->closed == TransferEnd::Kind::refused) ticket->forbidden = true;
    if (answer.empty()) answer = peer->is_usable() ? "not there" : peer->record.trouble;
    answers += (answers.empty() ? "" : "; ") + peer->host.name() + ": " + answer;
  }
  const auto category = category_of(ticket->wrong, ticket->denied, ticket->failed, ticket->forbidden);
  ticket->state = Ticket::State::kept;
  forget(*ticket);
  settle(ticket, Error(category, "pack " + ticket->group.pack.substr(0, 12) + ", group at " +
                                     std::to_string(ticket->group.place.offset) + ": " +
                                     (answers.empty() ? "no peer to ask" : answers)));
}

// --- proof
// -----------------------------------------------------------------------------------------------------------

void Fetcher::verify(TicketPtr ticket, std::size_t peer, base::Buffer bytes) {
  if (stopping_) return;
  verifying_ += bytes.size();
  (void)pool_->submit([this, ticket = std::move(ticket), peer, bytes = std::move(bytes)]() mutable {
    const auto size = bytes.size();
    Checked checked;
    std::optional<Error> failure;  // ours
    std::shared_ptr<formats::DecodedGroup> content;
    try {
      formats::ZstdDecompressor decompressor;
      content = std::make_shared<formats::DecodedGroup>(formats::decode_group(bytes, decompressor));
      formats::name_blobs(format_, *content);
    } catch (const Error& error) {
      if (error.category() == Category::corrupt || error.category() == Category::refused)
        checked = {error.what(), {}, false};
      else
        failure.emplace(error);
    } catch (const std::exception& error) {
      failure.emplace(Category::local, error.what());
    }
    bool is_expected = false;
    if (!failure) {
      const std::lock_guard lock(mutex_);
      ticket->from = peer;
      if (checked.damage.empty()) checked.damage = ticket->mismatch(*content);
      is_expected = checked.damage.empty() && !ticket->expected.empty();
      if (checked.damage.empty() && !is_expected && !ticket->is_unwanted) {
        if (unconfirmed_ + content->content.size() > kUnconfirmed) {
          failure.emplace(Category::network, "too much came before it was known what it is");
        } else {
          unconfirmed_ += content->content.size();
          ticket->content = content;
          ticket->bytes = std::move(bytes);
        }
      }
    }
    if (!checked.damage.empty()) checked.digest = digest_of(bytes);
    if (is_expected) keep(ticket, {std::move(bytes), content});
    if (failure) settle(ticket, failure);
    settled_.notify_all();  // for those that peek
    transfers_.post([this, ticket, peer, size, checked] { verified(ticket, peer, size, checked); });
  });
}

void Fetcher::verified(const TicketPtr& ticket, std::size_t peer, std::uint64_t size,
                       const Checked& checked) {
  verifying_ -= size;
  if (!checked.damage.empty()) {
    wrong_bytes(*peers_[peer], ticket, checked);
  } else {
    bool is_settled = false, is_kept = false;
    {
      const std::lock_guard lock(mutex_);
      is_kept = ticket->is_kept;
      is_settled = is_kept || ticket->failure;
    }
    if (is_settled) {
      ticket->state = Ticket::State::kept;
      forget(*ticket);
    }
    if (is_kept)
      for (const auto suspect : ticket->suspects)
        ban_on_loop(*peers_[suspect], "sent another group than the one asked for");
  }
  pump();
}

void Fetcher::wrong_bytes(Peer& peer, const TicketPtr& ticket, const Checked& checked) {
  ticket->wrong = true;
  ticket->answers[peer.index] = "wrong bytes (" + checked.damage + ")";
  ticket->attempts[peer.index] = kAttempts;
  // The same bytes from two peers: what led here is what is wrong.
  const auto same = [&](const auto& other) { return other.second == checked.digest; };
  const bool has_twin = std::any_of(ticket->digests.begin(), ticket->digests.end(), same);
  ticket->digests[peer.index] = checked.digest;
  const bool is_source = ticket->source && *ticket->source == peer.index;
  if (has_twin && !is_source) {
    for (const auto& [index, digest] : ticket->digests) {
      auto& accused = *peers_[index];
      if (digest != checked.digest || index == ticket->source || !accused.record.banned) continue;
      accused.record.banned = false;
      accused.record.trouble.clear();
    }
    if (ticket->source)
      ban_on_loop(*peers_[*ticket->source], "its map leads to places that hold something else");
    give_up(ticket);  // whoever wants its blobs looks for other places
    return;
  }
  // A sound group, but another: whether the peer is to blame or what led here, another peer's answer tells.
  if (checked.is_group && !is_source && peers_.size() > 1)
    ticket->suspects.insert(peer.index);
  else
    ban_on_loop(peer, checked.damage);
  requeue(ticket);
}

void Fetcher::ban_on_loop(Peer& peer, const std::string& why) {
  if (peer.record.banned) return;
  peer.record.banned = true;
  peer.record.trouble = "wrong bytes (" + why + ")";
  note(peer.host.name() + ": sent wrong bytes (" + why + "); asked no more");
  std::vector<std::uint64_t> numbers;
  for (const auto& [number, read] : reads_)
    if (read->peer == &peer) numbers.push_back(number);
  for (const auto number : numbers) {
    transfers_.cancel(reads_.at(number)->transfer);
    close_read(number);
  }
}

// --- the slow tail
// ---------------------------------------------------------------------------------------------------

void Fetcher::keep_watching() {
  if (watching_ || (reads_.empty() && queue_.empty())) return;
  watching_ = true;
  (void)transfers_.at(Clock::now() + kWatch, [this] {
    watching_ = false;
    hedge();
    pump();
  });
}

void Fetcher::hedge() {
  struct Late {
    Read* read;
    Peer* instead;
  };
  std::vector<Late> late;
  std::vector<std::uint64_t> needless;
  for (const auto& [number, read] : reads_) {
    std::uint64_t left = 0;
    for (auto at = read->next; at < read->tickets.size(); ++at)
      if (read->tickets[at]->state == Ticket::State::reading) left += read->tickets[at]->group.place.size;
    if (left == 0) {
      needless.push_back(number);
      continue;
    }
    if (read->hedged || peers_.size() < 2) continue;
    const double elapsed = seconds(Clock::now() - read->started);
    const auto& peer = *read->peer;
    const double latency = peer.record.latency > 0 ? peer.record.latency : kDefaultLatency;
    if (elapsed < std::max(0.2, 3 * latency)) continue;
    const double rate = static_cast<double>(read->received) / elapsed;
    const double rest = rate > 0 ? static_cast<double>(left) / rate : 1e9;
    if (!queue_.empty() && rest < 2) continue;
    const auto choice = choose(*read->tickets[read->next], left, &peer);
    if (choice.peer == nullptr || choice.peer->reads >= choice.peer->host.parallel_reads()) continue;
    if (2 * finish_time(*choice.peer, left) < rest) late.push_back({read.get(), choice.peer});
  }
  for (const auto number : needless) {
    transfers_.cancel(reads_.at(number)->transfer);
    close_read(number);
  }
  for (const auto& [read, instead] : late) {
    read->hedged = true;
    std::vector<TicketPtr> tickets;
    for (auto at = read->next; at < read->tickets.size(); ++at)
      if (read->tickets[at]->state == Ticket::State::reading) tickets.push_back(read->tickets[at]);
    if (!tickets.empty()) start_read(*instead, std::move(tickets));
  }
}

// --- small files
// -----------------------------------------------------------------------------------------------------

std::vector<Fetcher::Peer*> Fetcher::promising() const {
  std::vector<Peer*> all;
  for (const auto& peer : peers_)
    if (peer->is_usable()) all.push_back(peer.get());
  std::stable_sort(all.begin(), all.end(), [&](const Peer* a, const Peer* b) {
    const auto promise = [&](const Peer& peer) {
      return std::pair(peer.failures_in_row > 0 || !peer.is_open(), finish_time(peer, kSmallRead));
    };
    return promise(*a) < promise(*b);
  });
  return all;
}

std::optional<Fetcher::File> Fetcher::find_file(
    const std::string& path, std::uint64_t max_size,
    const std::function<void(base::Bytes, std::size_t)>& is_good) {
  auto race = std::make_shared<FileRace>();  // shared: with the callbacks of its transfers
  race->path = path;
  race->max_size = max_size;
  race->is_good = is_good;
  auto result = race->result.get_future();
  transfers_.call([&] {
    race->left = promising();
    std::reverse(race->left.begin(), race->left.end());
    next_of_race(race);
  });
  return result.get();
}

void Fetcher::next_of_race(const std::shared_ptr<FileRace>& race) {
  if (race->over) return;
  transfers_.cancel_timer(race->timer);
  race->timer = 0;
  const auto finish = [this, race](std::optional<File> file) {
    race->over = true;
    transfers_.cancel_timer(race->timer);
    for (const auto& [id, peer] : race->asked) transfers_.cancel(id);
    race->asked.clear();
    if (!file && race->failure)
      race->result.set_exception(std::make_exception_ptr(*race->failure));
    else
      race->result.set_value(std::move(file));
  };
  while (!race->left.empty() && !race->left.back()->is_usable()) race->left.pop_back();
  if (race->left.empty()) {
    if (race->asked.empty()) finish(std::nullopt);
    return;
  }
  auto& peer = *race->left.back();
  race->left.pop_back();
  const auto index = peer.index;
  auto bytes = std::make_shared<base::Buffer>();  // shared: with the callbacks
  auto id = std::make_shared<Transfers::Id>(0);   // likewise
  const auto ask = [this, race, &peer, index, bytes, id, finish] {
    if (race->over) return;
    bytes->clear();
    auto transfer = peer.host.get(race->path, {});
    transfer.max_size = race->max_size;
    transfer.on_bytes = [bytes](base::Bytes part) {
      base::append(*bytes, part);
      return true;
    };
    ++peer.record.requests;
    transfer.on_end = [this, race, &peer, index, bytes, id, finish](const TransferEnd& end) {
      race->asked.erase(*id);
      peer.record.received += end.received;
      using Kind = TransferEnd::Kind;
      const auto fail = [&](Category category, const std::string& why) {
        // Absent here says nothing while another could not be asked.
        if (!race->failure || category == Category::wrong_bytes)
          race->failure.emplace(category, race->path + ": " + peer.host.name() + ": " + why);
      };
      if (end.kind == Kind::done) {
        note_success(peer, end);
        try {
          race->is_good(*bytes, index);
          return finish(File{std::move(*bytes), index});
        } catch (const Error& error) {
          if (error.category() != Category::no_store) {  // else it is for other programs, as good as absent
            fail(Category::wrong_bytes, error.what());
            ban_on_loop(peer, race->path + ": " + error.what());
          }
        } catch (const std::exception& error) {
          fail(Category::local, error.what());
        }
      } else if (end.kind != Kind::absent) {
        note_failure(peer, end);
        fail(end.kind == Kind::authentication ? Category::authentication
             : end.kind == Kind::refused      ? Category::refused
                                              : Category::network,
             end.message);
        // Those that may do better on another day are asked again, after the others.
        if (peer.is_usable() && ++race->attempts[index] < kAttempts)
          race->left.insert(race->left.begin(), &peer);
      }
      next_of_race(race);
    };
    *id = transfers_.start(std::move(transfer));
    race->asked.emplace(*id, index);
  };
  if (const auto wait = peer.open_at - Clock::now(); wait > Clock::duration::zero() && race->left.empty()) {
    *id = transfers_.at(peer.open_at, [race, id, ask] {
      race->asked.erase(*id);
      ask();
    });
    race->asked.emplace(*id, index);
    return;
  }
  ask();
  if (!race->left.empty())
    race->timer = transfers_.at(Clock::now() + kRaceStep, [this, race] { next_of_race(race); });
}

std::optional<Fetcher::Part> Fetcher::read_part(std::size_t index, const std::string& path,
                                                const FileRange& range, std::uint64_t max_size) {
  const auto& host = peers_[index]->host;
  if (range.from_end && !host.knows_end()) {
    const auto size = run(index, path, 0, [&] { return host.get(path, {}); });
    if (!size) return std::nullopt;
    const auto count = std::min(range.size, size->file_size);
    auto part = read_part(index, path, {size->file_size - count, count, false}, max_size);
    if (part) part->file_size = size->file_size;
    return part;
  }
  return run(index, path, max_size, [&] { return host.get(path, range); });
}

std::optional<std::vector<std::string>> Fetcher::list(std::size_t index, const std::string& directory) {
  const auto& host = peers_[index]->host;
  if (!host.can_list()) return std::nullopt;
  std::vector<std::string> names;
  while (true) {
    const auto part = run(index, directory, kMaxList,
                          [&] { return host.list(directory, names.empty() ? "" : names.back()); });
    if (!part) return names.empty() ? std::nullopt : std::optional(names);
    const auto listed = host.parse_list(directory, base::as_chars(part->bytes));
    const bool goes_on = !listed.names.empty() && (names.empty() || listed.names.front() > names.back());
    if (goes_on) names.insert(names.end(), listed.names.begin(), listed.names.end());
    if (!listed.more || !goes_on || names.size() > kMaxNames) return names;
  }
}

std::optional<Fetcher::Part> Fetcher::run(std::size_t index, const std::string& path, std::uint64_t max_size,
                                          const std::function<Transfer()>& make) {
  auto part = std::make_shared<Part>();                         // shared: with the callbacks
  auto result = std::make_shared<std::promise<TransferEnd>>();  // likewise
  for (unsigned attempt = 1;; ++attempt) {
    result = std::make_shared<std::promise<TransferEnd>>();
    auto end_future = result->get_future();
    transfers_.call([&] {
      auto& peer = *peers_[index];
      if (!peer.is_usable()) {
        TransferEnd end;
        end.kind = peer.closed.value_or(TransferEnd::Kind::failed);
        end.message = peer.record.trouble;
        result->set_value(end);
        return;
      }
      part->bytes.clear();
      auto transfer = make();
      transfer.max_size = max_size;
      transfer.on_bytes = [part, max_size](base::Bytes bytes) {
        if (max_size == 0) return false;  // only its size is wanted
        base::append(part->bytes, bytes);
        return true;
      };
      if (max_size == 0) transfer.max_size = UINT64_MAX;
      transfer.on_end = [this, &peer, result](const TransferEnd& end) {
        peer.record.received += end.received;
        if (end.kind == TransferEnd::Kind::done)
          note_success(peer, end);
        else if (end.kind != TransferEnd::Kind::absent && end.kind != TransferEnd::Kind::range)
          note_failure(peer, end);
        result->set_value(end);
      };
      ++peer.record.requests;
      (void)transfers_.start(std::move(transfer));
    });
    const auto end = end_future.get();
    using Kind = TransferEnd::Kind;
    if (end.kind == Kind::done) {
      part->file_size = end.file_size.value_or(part->bytes.size());
      part->ranges_ignored = end.ranges_ignored;
      return std::move(*part);
    }
    if (end.kind == Kind::range && !part->bytes.empty()) {  // as far as it goes
      part->file_size = end.file_size.value_or(part->bytes.size());
      part->ranges_ignored = end.ranges_ignored;
      return std::move(*part);
    }
    if (end.kind == Kind::absent || end.kind == Kind::range) return std::nullopt;
    if (end.kind == Kind::failed && attempt < kAttempts && is_usable(index)) continue;
    throw Error(end.kind == Kind::authentication ? Category::authentication
                : end.kind == Kind::refused      ? Category::refused
                : end.kind == Kind::local        ? Category::local
                                                 : Category::network,
                peer_name(index) + ": " + path + ": " + end.message);
  }
}

}  // namespace vat::internal
