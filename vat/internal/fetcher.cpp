// Everything about reads and the queue happens on the peers' loop; askers post to it and wait. A
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
constexpr milliseconds kWatch{50};
constexpr unsigned kCuts = 100;  ///< reads of one group that end before a byte comes, and are tried again

double seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string digest_of(base::Bytes bytes) {
  base::Sha256 hash;
  hash.update(bytes);
  return base::to_hex(hash.finish());
}

}  // namespace

/// What is read from a peer just now, and what is known of its packs.
struct Fetcher::Load {
  unsigned reads = 0;
  Clock::time_point busy_since{};
  std::uint64_t busy_bytes = 0;
  bool ignores_ranges = false;
  std::set<PackNumber> lacks;
};

struct Fetcher::Ticket {
  PackGroup group;
  Key key{};
  enum class State : std::uint8_t { queued, reading, checking, kept };
  State state = State::queued;                 // the loop
  std::optional<std::size_t> source;           ///< the peer whose map led here
  unsigned readers = 0;                        ///< reads under way that bring it
  std::map<std::size_t, unsigned> attempts;    ///< by peer
  std::map<std::size_t, Checked> wrong;        ///< what came that does not fit, by peer
  unsigned cuts = 0;                           ///< reads that ended before a byte came
  unsigned askers = 0;                         ///< how often it was asked for
  std::map<std::size_t, std::string> answers;  ///< why not, by peer
  Troubles met;

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

Fetcher::Fetcher(base::ObjectFormat format, Peers& peers, unsigned threads, Keep keep)
    : format_(format),
      peers_(peers),
      transfers_(peers.transfers()),
      keep_(std::move(keep)),
      pool_(std::make_unique<base::WorkerPool>(
          threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency()))) {
  for (std::size_t peer = 0; peer < peers.size(); ++peer) loads_.push_back(std::make_unique<Load>());
  transfers_.call([this] {
    peers_.on_ban(
        [this](Peer& banned) { stop_reads([&](const Read& read) { return read.peer == &banned; }); });
  });
}

Fetcher::~Fetcher() {
  transfers_.call([this] {
    stopping_ = true;
    queue_.clear();
    stop_reads([](const Read&) { return true; });
    transfers_.cancel_timer(watch_);
    peers_.on_ban({});
  });
  pool_.reset();
  transfers_.call([] {});  // what its threads posted is over
}

void Fetcher::stop_reads(const std::function<bool(const Read&)>& which) {
  std::vector<std::uint64_t> numbers;
  for (const auto& [number, read] : reads_)
    if (which(*read)) numbers.push_back(number);
  for (const auto number : numbers) {
    transfers_.cancel(reads_.at(number)->transfer);
    close_read(number);
  }
}

// --- what askers call
// ------------------------------------------------------------------------------------------------

std::vector<Fetcher::TicketPtr> Fetcher::want(const std::vector<PackGroup>& groups,
                                              std::optional<std::size_t> source, bool urgent) {
  return transfers_.call([&] {
    std::vector<TicketPtr> result;
    for (const auto& group : groups) result.push_back(want_on_loop(group, source, urgent));
    pump();
    return result;
  });
}

Fetcher::TicketPtr Fetcher::want_missed(const PackGroup& group, const std::function<bool()>& is_here) {
  return transfers_.call([&]() -> TicketPtr {
    // A ticket is forgotten on the loop after its group was kept.
    if (!tickets_.contains({number_of(group.pack), group.place.offset, group.place.size}) && is_here())
      return nullptr;
    auto ticket = want_on_loop(group, std::nullopt, true);
    pump();
    return ticket;
  });
}

Fetcher::TicketPtr Fetcher::want_on_loop(const PackGroup& group, std::optional<std::size_t> source,
                                         bool urgent) {
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
  return ticket;
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
    wrong_bytes(peers_[from], ticket, wrong);
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

Fetcher::Load& Fetcher::load(const Peer& peer) const {
  return *loads_[peer.index];
}

Fetcher::PackNumber Fetcher::number_of(const std::string& pack) {
  const auto [place, fresh] = pack_numbers_.emplace(pack, static_cast<PackNumber>(packs_.size()));
  if (fresh) packs_.push_back(pack);
  return place->second;
}

// --- choosing
// --------------------------------------------------------------------------------------------------------

std::uint64_t Fetcher::read_size(const Peer& peer) const {
  if (load(peer).ignores_ranges) return UINT64_MAX;
  return peer.record.rate <= 0 && peers_.size() > 1 ? kSmallRead : kRead;
}

Fetcher::Choice Fetcher::choose(const Ticket& ticket, std::uint64_t size, const Peer* besides) const {
  Choice choice;
  double best = 0;
  for (const auto& peer : peers_.all()) {
    if (peer.get() == besides || !peer->is_usable() || load(*peer).lacks.contains(std::get<0>(ticket.key)))
      continue;
    const auto tried = ticket.attempts.find(peer->index);
    if (tried != ticket.attempts.end() && tried->second >= Peers::kAttempts) continue;
    choice.later = true;
    if (!peer->is_open()) continue;
    // One of which nothing is known shows with one read what it is worth.
    if (peer->record.rate <= 0 && peers_.size() > 1 && load(*peer).reads > 0) continue;
    const double time = peers_.finish_time(*peer, size);
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
    if (load(*choice.peer).reads >= choice.peer->host.parallel_reads() ||
        (load(*choice.peer).ignores_ranges && load(*choice.peer).reads > 0))
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
  if (auto& now = load(peer); now.reads++ == 0) {
    now.busy_since = Clock::now();
    now.busy_bytes = 0;
  }
  peer.outstanding += size;
  peers_.note_start(peer);
  reads_.emplace(the.number, std::move(read));
  the.transfer = transfers_.start(std::move(transfer));
}

/// Runs within libcurl: starts and cancels nothing.
bool Fetcher::take_bytes(Read& read, base::Bytes bytes) {
  read.received += bytes.size();
  load(*read.peer).busy_bytes += bytes.size();
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
  auto& now = load(peer);
  --now.reads;
  const auto busy = seconds(Clock::now() - now.busy_since);
  if (now.busy_bytes >= kSmallRead / 8 && busy > 0) {
    peer.record.rate = Peers::mean(peer.record.rate, static_cast<double>(now.busy_bytes) / busy);
    now.busy_since = Clock::now();
    now.busy_bytes = 0;
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
  if (end.ranges_ignored && !load(peer).ignores_ranges)
    peers_.note(peer.host.name() + ": sends whole files, whatever part is asked for; that takes long");
  if (end.ranges_ignored) load(peer).ignores_ranges = true;
  if (end.kind == Kind::done) {
    peers_.note_success(peer, end);
  } else {
    for (auto at = read.next; at < read.tickets.size(); ++at) {
      auto& ticket = *read.tickets[at];
      ticket.answers[peer.index] = end.message;
      if (end.kind == Kind::failed || end.kind == Kind::range) ticket.met.failed = true;
    }
    const bool is_waited_for = peers_.is_waited_for(peer, end);
    for (auto at = read.next; at < read.tickets.size(); ++at)
      if (auto& ticket = *read.tickets[at]; is_waited_for && (end.is_busy || ++ticket.cuts < kCuts))
        --ticket.attempts[peer.index];
    if (end.kind == Kind::absent || end.kind == Kind::range)
      load(peer).lacks.insert(
          std::get<0>(read.tickets.front()->key));  // range: it is still being copied there
    else
      peers_.note_failure(peer, end);
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

void Fetcher::give_up(const TicketPtr& ticket) {
  std::string answers;
  for (const auto& peer : peers_.all()) {
    std::string answer;
    if (const auto said = ticket->answers.find(peer->index); said != ticket->answers.end())
      answer = said->second;
    if (peer->record.banned) ticket->met.wrong = true;
    if (peer->closed == TransferEnd::Kind::authentication) ticket->met.denied = true;
    if (peer->closed == TransferEnd::Kind::refused) ticket->met.forbidden = true;
    // It was not asked for this, so nobody knows whether it has it.
    if (answer.empty() && !peer->is_usable() && !peer->record.banned && !peer->closed)
      ticket->met.failed = true;
    if (answer.empty()) answer = peer->is_usable() ? "not there" : peer->record.trouble;
    answers += (answers.empty() ? "" : "; ") + peer->host.name() + ": " + answer;
  }
  const auto category = ticket->met.category();
  ticket->state = Ticket::State::kept;
  forget(*ticket);
  settle(ticket, Error(category,
                       "pack " + ticket->group.pack.substr(0, 12) + ", group at " +
                           std::to_string(ticket->group.place.offset) + ": " +
                           (answers.empty() ? "no peer to ask" : answers),
                       peers_.hint()));
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
    wrong_bytes(peers_[peer], ticket, checked);
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
      for (const auto& [sender, what] : ticket->wrong) peers_.ban(peers_[sender], what.damage);
  }
  pump();
}

void Fetcher::wrong_bytes(Peer& peer, const TicketPtr& ticket, const Checked& checked) {
  ticket->met.wrong = true;
  ticket->answers[peer.index] = "wrong bytes (" + checked.damage + ")";
  ticket->attempts[peer.index] = Peers::kAttempts;
  // The same bytes from two peers: what led here is wrong, or both are copies of one damaged vat. The answer
  // of another peer tells; when there is none, the map is to blame.
  const auto same = [&](const auto& other) { return other.second.digest == checked.digest; };
  const bool has_twin = std::any_of(ticket->wrong.begin(), ticket->wrong.end(), same);
  ticket->wrong[peer.index] = checked;
  const bool is_source = ticket->source && *ticket->source == peer.index;
  if (has_twin && !is_source) {
    for (const auto& [index, what] : ticket->wrong) {
      auto& accused = peers_[index];
      if (what.digest != checked.digest || index == ticket->source || !accused.record.banned) continue;
      accused.record.banned = false;
      accused.record.trouble.clear();
    }
    const bool is_accused = ticket->source && peers_[*ticket->source].record.banned;
    if (!is_accused && choose(*ticket, ticket->group.place.size, nullptr).later) return requeue(ticket);
    if (ticket->source)
      peers_.ban(peers_[*ticket->source], "its map leads to places that hold something else");
    give_up(ticket);  // whoever wants its blobs looks for other places
    return;
  }
  // A sound group, but another: whether the peer is to blame or what led here, another peer's answer tells.
  if (!checked.is_group || is_source || peers_.size() == 1) peers_.ban(peer, checked.damage);
  requeue(ticket);
}

// --- the slow tail
// ---------------------------------------------------------------------------------------------------

void Fetcher::keep_watching() {
  if (reads_.empty() && queue_.empty()) return;
  // A host that is paced is asked as soon as it may be.
  const auto now = Clock::now();
  auto at = now + kWatch;
  for (const auto& peer : peers_.all())
    if (!queue_.empty() && peer->is_usable() && peer->ready_at() > now) at = std::min(at, peer->ready_at());
  if (watch_ != 0 && at >= watch_at_) return;
  transfers_.cancel_timer(watch_);
  watch_at_ = at;
  watch_ = transfers_.at(at, [this] {
    watch_ = 0;
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
  const auto left_of = [](const Read& read) {
    std::uint64_t left = 0;
    for (auto at = read.next; at < read.tickets.size(); ++at)
      if (read.tickets[at]->state == Ticket::State::reading) left += read.tickets[at]->group.place.size;
    return left;
  };
  stop_reads([&](const Read& read) { return left_of(read) == 0; });
  for (const auto& [number, read] : reads_) {
    const auto left = left_of(*read);
    if (read->hedged || peers_.size() < 2) continue;
    const double elapsed = seconds(Clock::now() - read->started);
    const auto& peer = *read->peer;
    if (elapsed < std::max(0.2, 3 * peer.latency())) continue;
    const double rate = static_cast<double>(read->received) / elapsed;
    const double rest = rate > 0 ? static_cast<double>(left) / rate : 1e9;
    if (!queue_.empty() && rest < 2) continue;
    const auto choice = choose(*read->tickets[read->next], left, &peer);
    if (choice.peer == nullptr || load(*choice.peer).reads >= choice.peer->host.parallel_reads()) continue;
    if (2 * peers_.finish_time(*choice.peer, left) < rest) late.push_back({read.get(), choice.peer});
  }
  for (const auto& [read, instead] : late) {
    read->hedged = true;
    std::vector<TicketPtr> tickets;
    for (auto at = read->next; at < read->tickets.size(); ++at)
      if (read->tickets[at]->state == Ticket::State::reading) tickets.push_back(read->tickets[at]);
    if (!tickets.empty()) start_read(*instead, std::move(tickets));
  }
}

}  // namespace vat::internal
