// Everything about peers happens on the thread of their loop; askers post to it and wait.
#include "vat/internal/peers.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "formats/compression/decoder.h"
#include "vat/internal/vat_impl.h"

namespace vat::internal {

using base::Category;
using base::Error;
using Kind = TransferEnd::Kind;

namespace {

constexpr std::size_t kMaxNames = 10'000'000;
constexpr unsigned kBarren = 3;  ///< pages of a list in a row that may have nothing new
constexpr std::uint64_t kMaxList = std::uint64_t{64} << 20;  ///< bytes of a list of names
constexpr std::uint64_t kMaxSettings = std::uint64_t{64} << 10;
constexpr std::uint64_t kSmall = std::uint64_t{512}
                                 << 10;  ///< bytes by which the promise of peers is compared
constexpr unsigned kBreaker = 3;         ///< failures in a row after which a peer is left alone for a while
constexpr unsigned kDead = 5;            ///< … and after which it is taken for dead
constexpr std::chrono::seconds kDeadFor{30};
/// The pace of a host that had no time is halved, down to the slowest, comes back quickly to a part of what
/// was too fast, and grows slowly from there; as TCP's windows do (RFC 9438).
constexpr double kFirstPace = 16, kSlowest = 0.2, kFastest = 100;  ///< requests a second
constexpr double kBearable = 0.9, kQuickly = 1.25, kSlowly = 0.01;
constexpr std::chrono::seconds kLongestPause{5};
constexpr double kDefaultLatency = 0.1;  ///< seconds
constexpr double kDefaultRate = 8e6;     ///< bytes a second
constexpr double kWeight = 0.3;          ///< of the newest measurement
constexpr std::chrono::milliseconds kRaceStep{300};

}  // namespace

namespace {

/// Whether the list of a no_proxy has the host: `*`, a name, or a domain that it is of.
bool is_without_proxy(std::string_view list, std::string_view host) {
  const auto lower = [](std::string_view text) {
    std::string result(text);
    for (auto& c : result)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return result;
  };
  auto wanted = lower(host);
  while (wanted.ends_with('.')) wanted.pop_back();
  while (!list.empty()) {
    const auto end = std::min(list.find_first_of(", \t"), list.size());
    auto name = lower(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
    if (name == "*") return true;
    if (name.starts_with("*.")) name.erase(0, 2);
    if (std::count(name.begin(), name.end(), ':') == 1) name.erase(name.find(':'));  // a port
    while (name.ends_with('.')) name.pop_back();
    name.erase(0, name.find_first_not_of('.'));
    if (!name.empty() && (wanted == name || wanted.ends_with("." + name))) return true;
  }
  return false;
}

constexpr const char* kPackList = "cache/packs";

/// Whether this may be a list of names in hex, one a line, as cache/packs is; an empty one is.
bool is_list(base::Bytes bytes) {
  const auto line = base::as_chars(bytes).substr(0, base::as_chars(bytes).find('\n'));
  return bytes.empty() || (line.size() == 64 && base::from_hex(line));
}

/// Whether what a host sent for a file in cache/ is a page for people, as many send with status 200 for what
/// is not there: text that does not begin as the format does. Anything else is of the format, or a lie.
bool is_page(const std::string& path, base::Bytes bytes) {
  if (!path.starts_with("cache/")) return false;
  const bool is_text = path == kPackList || path == "cache/index/list";
  if (bytes.empty()) return !is_text;
  for (const std::string_view mark : {"\xff\xfe", "\xfe\xff"})  // of UTF-16
    if (base::as_chars(bytes).starts_with(mark)) return true;
  if (base::as_chars(bytes).starts_with("\x1f\x8b")) {  // compressed, though nobody asked for that
    try {
      base::Buffer plain(64);
      const auto decoder = formats::make_decoder(formats::Codec::gzip, [&](base::MutableBytes to) {
        const auto part = bytes.first(std::min(bytes.size(), to.size()));
        std::copy(part.begin(), part.end(), to.begin());
        bytes = bytes.subspan(part.size());
        return part.size();
      });
      plain.resize(decoder->read(plain));
      return !base::as_chars(plain).starts_with("\x1f\x8b") && is_page(path, plain);
    } catch (const Error&) {
      return false;
    }
  }
  const auto begin = base::as_chars(bytes.first(std::min<std::size_t>(bytes.size(), 64)));
  if (!std::all_of(begin.begin(), begin.end(), [](char c) {
        return static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\r' || c == '\t';
      }))
    return false;
  if (!is_text) return true;
  return !is_list(bytes);
}

}  // namespace

TransferLimits limits_of(const PeerOptions& options) {
  TransferLimits limits;
  limits.rate = options.rate;
  limits.certificates = options.certificates;
  limits.proxy_for = [proxies = options.proxies](std::string_view scheme, std::string_view host) {
    const auto& own = scheme == "https" ? proxies.https : proxies.http;
    return is_without_proxy(proxies.none, host) ? std::string() : own.empty() ? proxies.all : own;
  };
  return limits;
}

Category Troubles::category() const {
  return wrong       ? Category::wrong_bytes
         : denied    ? Category::authentication
         : failed    ? Category::network
         : forbidden ? Category::refused
                     : Category::not_found;
}

double Peers::mean(double before, double now) {
  return before <= 0 ? now : before + kWeight * (now - before);
}

double Peers::Peer::latency() const {
  return record.latency > 0 ? record.latency : kDefaultLatency;
}

struct Peers::FileRace {
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

Peers::Peers(const std::vector<PeerAddress>& addresses, const PeerOptions& options)
    : on_note_(options.on_note), retry_for_(options.retry_for), transfers_(limits_of(options)) {
  for (const auto& address : addresses) peers_.push_back(std::make_unique<Peer>(address, peers_.size()));
}

void Peers::note(const std::string& text) const {
  if (on_note_) on_note_(text);
}

std::vector<PeerRecord> Peers::records() {
  return transfers_.call([&] {
    std::vector<PeerRecord> all;
    for (const auto& peer : peers_) all.push_back(peer->record);
    return all;
  });
}

void Peers::set_record(std::size_t peer, const PeerRecord& record) {
  transfers_.call([&] {
    peers_[peer]->record.latency = record.latency;
    peers_[peer]->record.rate = record.rate;
  });
}

void Peers::add_received(std::size_t peer, std::uint64_t size) {
  transfers_.call([&] {
    ++peers_[peer]->record.requests;
    peers_[peer]->record.received += size;
  });
}

std::vector<std::size_t> Peers::by_promise() {
  return transfers_.call([&] {
    std::vector<std::size_t> all;
    for (const auto* peer : promising()) all.push_back(peer->index);
    return all;
  });
}

std::string Peers::best() {
  return transfers_.call([&] {
    const auto all = promising();
    return all.empty() ? std::string() : all.front()->host.name();
  });
}

bool Peers::is_usable(std::size_t peer) {
  return transfers_.call([&] { return peers_[peer]->is_usable(); });
}

Error Peers::failure(const std::string& what, const std::vector<std::string>& absences) {
  return transfers_.call([&] {
    Troubles met;
    std::string answers;
    for (const auto& peer : peers_) {
      met.wrong = met.wrong || peer->record.banned;
      met.denied = met.denied || peer->closed == Kind::authentication;
      met.forbidden = met.forbidden || peer->closed == Kind::refused;
      const bool silent = !peer->record.banned && !peer->closed && peer->failures_in_row > 0;
      met.failed = met.failed || silent;
      answers += (answers.empty() ? "" : "; ") + peer->host.name() + ": " +
                 (!peer->is_usable() || silent ? peer->record.trouble : absences[peer->index]);
    }
    return Error(met.category(), what + ": " + (answers.empty() ? "not here, and no peer to ask" : answers),
                 answers.empty() ? "fetch it before: shrub fetch SHRUB" : hint());
  });
}

std::string Peers::hint() const {
  for (const auto& peer : peers_)
    if (peer->closed == Kind::refused)
      return "if it is yours: shrub trust " + peer->host.name() + " (or --vat " + peer->host.name() + ")";
  return {};
}

// --- what is known of them

double Peers::finish_time(const Peer& peer, std::uint64_t size) const {
  double rate = peer.record.rate;
  if (rate <= 0) {
    for (const auto& other : peers_) rate = std::max(rate, other->record.rate);
    if (rate <= 0) rate = kDefaultRate;
  }
  return peer.latency() + static_cast<double>(peer.outstanding + size) / rate;
}

void Peers::note_start(Peer& peer) {
  const auto now = Clock::now();
  ++peer.record.requests;
  if (peer.alive_at == Clock::time_point()) peer.alive_at = now;
  if (peer.pace > 0)
    peer.next_at = std::max(now, peer.next_at) +
                   std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / peer.pace));
}

void Peers::note_success(Peer& peer, const TransferEnd& end) {
  peer.failures_in_row = 0;
  peer.alive_at = Clock::now();
  peer.has_answered = true;
  if (peer.pace > 0) {
    const auto bearable = kBearable * peer.too_fast;
    peer.pace =
        peer.pace < bearable ? std::min(peer.pace * kQuickly, bearable) : peer.pace + kSlowly * peer.too_fast;
    if (peer.pace > kFastest) peer.pace = 0;
  }
  if (end.first_byte.count() > 0)
    peer.record.latency = mean(peer.record.latency, std::chrono::duration<double>(end.first_byte).count());
}

bool Peers::is_waited_for(const Peer& peer, const TransferEnd& end) const {
  return end.kind == Kind::failed && (end.is_busy || end.wait || (end.is_cut && peer.has_answered)) &&
         !peer.record.banned && !peer.closed && Clock::now() - peer.alive_at < retry_for_;
}

void Peers::note_failure(Peer& peer, const TransferEnd& end) {
  ++peer.record.failures;
  peer.record.trouble = end.message;
  if (end.kind == Kind::authentication || end.kind == Kind::refused) {
    if (!peer.closed) note(peer.host.name() + ": " + end.message + "; asked no more");
    peer.closed = end.kind;
    return;
  }
  const auto now = Clock::now();
  const auto pause = [&](Clock::duration time) { peer.open_at = std::max(peer.open_at, now + time); };
  const auto in_seconds = [](double time) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(time));
  };
  if (end.wait) pause(std::min<Clock::duration>(*end.wait, retry_for_));
  // What was under way when it failed before says the same again.
  if (end.started != Clock::time_point() && end.started < peer.failed_at) return;
  peer.failed_at = now;
  peer.record.rate /= 2;
  ++peer.failures_in_row;
  if (end.is_busy) {
    peer.too_fast = peer.pace > 0 ? peer.pace : kFirstPace;
    peer.pace = std::max(kSlowest, peer.too_fast / 2);
    peer.next_at = now + in_seconds(1 / peer.pace);
  }
  if (is_waited_for(peer, end)) {
    if (peer.failures_in_row == kDead) note(peer.host.name() + ": " + end.message + "; waiting for it");
    if (!end.is_busy)
      pause(std::min<Clock::duration>(in_seconds(0.1 * (1U << std::min(peer.failures_in_row, 6U))),
                                      kLongestPause));
    return;
  }
  if (peer.failures_in_row >= kDead || end.is_busy || end.wait) {
    if (peer.dead_until < now) note(peer.host.name() + ": " + end.message + "; not asked for a while");
    peer.dead_until = now + kDeadFor;
    return;
  }
  if (peer.failures_in_row < kBreaker) return;
  const auto power = std::min(peer.failures_in_row - kBreaker, 4U);
  pause(in_seconds(0.5 * (1U << power) * std::uniform_real_distribution<>(0.75, 1.25)(random_)));
}

void Peers::ban(Peer& peer, const std::string& why) {
  if (peer.record.banned) return;
  peer.record.banned = true;
  peer.record.trouble = "wrong bytes (" + why + ")";
  note(peer.host.name() + ": sent wrong bytes (" + why + "); asked no more");
  if (on_ban_) on_ban_(peer);
}

// --- small files
// -----------------------------------------------------------------------------------------------------

std::vector<Peers::Peer*> Peers::promising() const {
  std::vector<Peer*> all;
  for (const auto& peer : peers_)
    if (peer->is_usable()) all.push_back(peer.get());
  std::stable_sort(all.begin(), all.end(), [&](const Peer* a, const Peer* b) {
    const auto promise = [&](const Peer& peer) {
      return std::pair(peer.failures_in_row > 0 || !peer.is_open(), finish_time(peer, kSmall));
    };
    return promise(*a) < promise(*b);
  });
  return all;
}

std::optional<Peers::File> Peers::find_file(const std::string& path, std::uint64_t max_size,
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

void Peers::next_of_race(const std::shared_ptr<FileRace>& race) {
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
    note_start(peer);
    transfer.on_end = [this, race, &peer, index, bytes, id, finish](const TransferEnd& end) {
      race->asked.erase(*id);
      peer.record.received += end.received;
      const auto fail = [&](Category category, const std::string& why) {
        // Absent here says nothing while another could not be asked.
        if (!race->failure || category == Category::wrong_bytes)
          race->failure.emplace(category, race->path + ": " + peer.host.name() + ": " + why);
      };
      if (end.kind == Kind::done && is_page(race->path, *bytes)) {
        note_success(peer, end);  // as good as absent
      } else if (end.kind == Kind::done) {
        note_success(peer, end);
        try {
          race->is_good(*bytes, index);
          return finish(File{std::move(*bytes), index});
        } catch (const Error& error) {
          if (error.category() != Category::no_store) {  // else it is for other programs, as good as absent
            fail(Category::wrong_bytes, error.what());
            ban(peer, race->path + ": " + error.what());
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
        if (peer.is_usable() && (is_waited_for(peer, end) || ++race->attempts[index] < kAttempts))
          race->left.insert(race->left.begin(), &peer);
      }
      next_of_race(race);
    };
    *id = transfers_.start(std::move(transfer));
    race->asked.emplace(*id, index);
  };
  if (!peer.is_open() && race->left.empty()) {
    *id = transfers_.at(peer.ready_at(), [race, id, ask] {
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

/// The last bytes of a file of a host that has no ranges from the end.
std::optional<Peers::Part> Peers::read_end(std::size_t index, const std::string& path, std::uint64_t size,
                                           std::uint64_t max_size) {
  const auto& host = peers_[index]->host;
  const auto whole = run(index, path, 0, [&] { return host.get(path, {}); });
  if (!whole) return std::nullopt;
  const auto count = std::min(size, whole->file_size);
  auto part = read_part(index, path, {whole->file_size - count, count, false}, max_size);
  if (part) part->file_size = whole->file_size;
  return part;
}

std::optional<Peers::Part> Peers::read_part(std::size_t index, const std::string& path,
                                            const FileRange& range, std::uint64_t max_size) {
  const auto& host = peers_[index]->host;
  if (range.from_end && !host.knows_end()) return read_end(index, path, range.size, max_size);
  Kind how = Kind::done;
  auto part = run(
      index, path, max_size, [&] { return host.get(path, range); }, &how);
  if (range.from_end && how == Kind::range) return read_end(index, path, range.size, max_size);
  const bool from_begin = range.offset == 0 && !range.from_end && max_size > 0;
  return part && from_begin && is_page(path, part->bytes) ? std::nullopt : std::move(part);
}

std::optional<std::vector<std::string>> Peers::list(std::size_t index, const std::string& directory) {
  const auto& host = peers_[index]->host;
  if (!host.can_list()) return std::nullopt;
  const auto fail = [&](const std::string& why) {
    return Error(Category::network, name(index) + ": " + directory + "/: " + why);
  };
  std::set<std::string> names, tokens;
  unsigned barren = 0;  ///< pages in a row without a new name
  Host::Listed page;
  do {
    const auto part = run(index, directory, kMaxList, [&] { return host.list(directory, page); });
    if (!part) {
      if (names.empty()) return std::nullopt;
      throw fail("its list breaks off");
    }
    try {
      page = host.parse_list(directory, base::as_chars(part->bytes));
    } catch (const Error& error) {
      throw fail(error.what());
    }
    const auto before = names.size();
    names.insert(page.names.begin(), page.names.end());
    // A list that says it goes on, and does not, is not known to be complete.
    barren = names.size() == before ? barren + 1 : 0;
    if (page.more &&
        (page.token.empty() ? barren > 0 : barren > kBarren || !tokens.insert(page.token).second))
      throw fail("its list is said to go on, and does not");
    if (names.size() > kMaxNames) throw fail("lists more names than a vat has");
  } while (page.more);
  return std::vector<std::string>(names.begin(), names.end());
}

std::optional<Peers::Part> Peers::run(std::size_t index, const std::string& path, std::uint64_t max_size,
                                      const std::function<Transfer()>& make, Kind* how) {
  for (unsigned attempt = 1;; ++attempt) {
    Part part;
    TransferEnd end;
    auto& peer = *peers_[index];
    Clock::time_point ready_at;
    const bool is_asked = transfers_.call([&] {
      end.kind = peer.closed.value_or(Kind::failed);
      end.message = peer.record.trouble;
      ready_at = peer.ready_at();
      if (peer.is_usable()) note_start(peer);
      return peer.is_usable();
    });
    if (is_asked) std::this_thread::sleep_until(ready_at);
    if (is_asked) {
      auto transfer = make();
      transfer.max_size = max_size == 0 ? UINT64_MAX : max_size;
      transfer.on_bytes = [&](base::Bytes bytes) {
        if (max_size == 0) return false;  // only its size is wanted
        base::append(part.bytes, bytes);
        return true;
      };
      end = transfers_.begin(std::move(transfer)).get();
      transfers_.call([&] {
        peer.record.received += end.received;
        if (end.kind == Kind::done)
          note_success(peer, end);
        else if (end.kind != Kind::absent && end.kind != Kind::range)
          note_failure(peer, end);
      });
    }
    if (how != nullptr) *how = end.kind;
    // A file that ends within the range: as far as it goes.
    if (end.kind == Kind::done || (end.kind == Kind::range && !part.bytes.empty())) {
      part.file_size = end.file_size.value_or(part.bytes.size());
      part.ranges_ignored = end.ranges_ignored;
      return part;
    }
    if (end.kind == Kind::absent || end.kind == Kind::range) return std::nullopt;
    if (end.kind == Kind::failed && transfers_.call([&] {
          return peer.is_usable() && (attempt < kAttempts || is_waited_for(peer, end));
        }))
      continue;
    throw Error(category_of(end.kind), name(index) + ": " + path + ": " + end.message);
  }
}

std::optional<std::string> Peers::find_pack_list(std::size_t peer) {
  const auto& host = peers_[peer]->host;
  const auto part = run(peer, kPackList, kMaxList, [&] { return host.get(kPackList, {}, true); });
  if (!part) return std::nullopt;
  // Each line: what replaces it must not lose a name.
  std::string_view rest = base::as_chars(part->bytes);
  while (!rest.empty()) {
    const bool is_whole = rest.find('\n') != std::string_view::npos;
    const auto line = base::take_field(rest, '\n');
    if (!is_whole || line.size() != 64 || !base::from_hex(line))
      throw Error(Category::network, name(peer) + ": " + kPackList + ": answers with something else");
  }
  return std::string(base::as_chars(part->bytes));
}

std::optional<std::vector<std::string>> Peers::find_packs(std::size_t peer) {
  std::vector<std::string> packs;
  // The directory says more than the list, which whoever copied a pack there may not have brought up to date.
  if (const auto names = list(peer, Vat::Impl::kPackDir)) {
    for (const auto& name : *names)
      if (Vat::Impl::is_pack_name(name)) packs.push_back(name.substr(0, 64));
  } else if (const auto text = read_part(peer, kPackList, {}, kMaxList)) {
    if (!text->bytes.empty() && text->bytes.back() != std::byte{'\n'})
      throw Error(Category::network, name(peer) + ": " + kPackList + ": is cut off");
    for (std::string_view rest = base::as_chars(text->bytes); !rest.empty();) {
      auto name = std::string(base::take_field(rest, '\n'));
      if (Vat::Impl::is_pack_name(name + ".zst")) packs.push_back(std::move(name));
    }
  } else {
    return std::nullopt;
  }
  return packs;
}

std::optional<formats::VatSettings> Peers::settings(std::size_t peer) {
  const auto file = read_part(peer, "vat.json", {}, kMaxSettings);
  if (!file) return std::nullopt;
  return base::named(name(peer) + "/vat.json",
                     [&] { return formats::parse_vat_settings(base::as_chars(file->bytes)); });
}

}  // namespace vat::internal
