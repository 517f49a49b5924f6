// A set of peers: what is known of each, which is worth asking, and small files from them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/error.h"
#include "formats/vat_json/vat_settings.h"
#include "vat/internal/host.h"
#include "vat/internal/transfers.h"
#include "vat/peer_set.h"

namespace vat::internal {

/// What is known of a peer from earlier, and what this run adds.
struct PeerRecord {
  double latency = 0;  ///< seconds to the first byte; 0: unknown
  double rate = 0;     ///< bytes a second; 0: unknown
  std::uint64_t requests = 0, received = 0;
  std::uint64_t failures = 0;
  std::string trouble;  ///< why it is asked no more, or what failed last; empty: nothing
  bool banned = false;  ///< for wrong bytes
};

[[nodiscard]] TransferLimits limits_of(const PeerOptions& options);

/// What was met where something was looked for; the worst says what kind of failure it is.
struct Troubles {
  bool wrong = false, denied = false, failed = false, forbidden = false;
  [[nodiscard]] base::Category category() const;
};

class Peers {
 public:
  Peers(const std::vector<PeerAddress>& addresses, const PeerOptions& options);
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  [[nodiscard]] Transfers& transfers() noexcept { return transfers_; }
  [[nodiscard]] std::size_t size() const noexcept { return peers_.size(); }
  [[nodiscard]] const std::string& name(std::size_t peer) const { return peers_[peer]->host.name(); }

  /// A file of at most `max_size` bytes that `is_good` accepts, from whichever peer has one first. `is_good`
  /// is called on a thread of the loop, one call at a time; what it throws is the peer's fault, but
  /// for no_store: then the file is for other programs. nullopt: all that could be asked say there is none.
  struct File {
    base::Buffer bytes;
    std::size_t peer = 0;
  };
  [[nodiscard]] std::optional<File> find_file(
      const std::string& path, std::uint64_t max_size,
      const std::function<void(base::Bytes, std::size_t peer)>& is_good);
  /// The range of a file of one peer. nullopt if it is absent there; throws network, authentication, refused.
  struct Part {
    base::Buffer bytes;
    std::uint64_t file_size = 0;
    bool ranges_ignored = false;  ///< the whole file was sent
  };
  [[nodiscard]] std::optional<Part> read_part(std::size_t peer, const std::string& path,
                                              const FileRange& range, std::uint64_t max_size);
  /// All names in a directory of a peer's vat, in order. nullopt if the host cannot tell, or there is no such
  /// directory. Throws as read_part; network if the list is not complete.
  [[nodiscard]] std::optional<std::vector<std::string>> list(std::size_t peer, const std::string& directory);
  /// cache/packs as it is there, for who replaces it: nullopt only if the host says that there is none.
  /// Throws as read_part; network if it is no list of packs.
  [[nodiscard]] std::optional<std::string> find_pack_list(std::size_t peer);
  /// Names, in hex, of the packs a peer has: from its list, or from its directory if the host tells that;
  /// nullopt if there is neither. Throws as read_part.
  [[nodiscard]] std::optional<std::vector<std::string>> find_packs(std::size_t peer);
  /// nullopt: there is no vat. Throws as read_part; no_store if it cannot be read by this program.
  [[nodiscard]] std::optional<formats::VatSettings> settings(std::size_t peer);

  /// Those that are asked at all, the quickest first.
  [[nodiscard]] std::vector<std::size_t> by_promise();
  /// The name of the one that is asked first; empty if there is none.
  [[nodiscard]] std::string best();
  /// Whether it is asked at all.
  [[nodiscard]] bool is_usable(std::size_t peer);
  /// Why something that nobody was found to have may be somewhere all the same: peers that were not asked, or
  /// do not answer. Names each peer; `absences`: what to say of those that answered. not_found if all of them
  /// did.
  [[nodiscard]] base::Error failure(const std::string& what, const std::vector<std::string>& absences);
  /// What to do about those that nobody consented to; empty if there are none. Only on the loop.
  [[nodiscard]] std::string hint() const;
  [[nodiscard]] std::vector<PeerRecord> records();
  void set_record(std::size_t peer, const PeerRecord& record);
  /// Counts what came from it by another way.
  void add_received(std::size_t peer, std::uint64_t size);

  // --- Only on the loop.

  struct Peer {
    Peer(const PeerAddress& address, std::size_t number) : host(address), index(number) {}
    Host host;
    std::size_t index;
    PeerRecord record;
    std::optional<TransferEnd::Kind> closed;  ///< it is asked no more: authentication or refused
    unsigned failures_in_row = 0;             ///< what fails at one time counts once
    Clock::time_point open_at{};              ///< not asked before
    Clock::time_point dead_until{};           ///< it failed too often to be asked before
    Clock::time_point failed_at{};            ///< when the last failure was counted
    Clock::time_point
        alive_at{};               ///< when it last sent what was asked for; at first, when it was first asked
    bool has_answered = false;    ///< in this run
    double pace = 0;              ///< requests a second that it bears; 0: any number
    double too_fast = 0;          ///< at which it last had no time
    Clock::time_point next_at{};  ///< when its pace allows the next request
    std::uint64_t outstanding = 0;  ///< bytes asked for and not come
    [[nodiscard]] bool is_usable() const { return !record.banned && !closed && dead_until <= Clock::now(); }
    [[nodiscard]] Clock::time_point ready_at() const { return std::max(open_at, next_at); }
    [[nodiscard]] bool is_open() const { return ready_at() <= Clock::now(); }
    [[nodiscard]] double latency() const;  ///< as far as is known
  };
  [[nodiscard]] Peer& operator[](std::size_t peer) { return *peers_[peer]; }
  [[nodiscard]] const std::vector<std::unique_ptr<Peer>>& all() const noexcept { return peers_; }
  /// Seconds until so many more bytes will have come from it.
  [[nodiscard]] double finish_time(const Peer& peer, std::uint64_t size) const;
  void note(const std::string& text) const;
  /// A request to it begins.
  void note_start(Peer& peer);
  void note_success(Peer& peer, const TransferEnd& end);
  void note_failure(Peer& peer, const TransferEnd& end);
  /// Whether a failure says nothing of what was asked for: the host has no time, and will be waited for.
  [[nodiscard]] bool is_waited_for(const Peer& peer, const TransferEnd& end) const;
  /// It told something that is not so, and is asked no more.
  void ban(Peer& peer, const std::string& why);
  /// Called with whom to ask no more; whoever reads from it then stops.
  void on_ban(std::function<void(Peer&)> called) { on_ban_ = std::move(called); }

  /// The newest measurement taken into a moving average.
  [[nodiscard]] static double mean(double before, double now);
  static constexpr unsigned kAttempts = 3;  ///< of one peer for one thing

 private:
  struct FileRace;

  [[nodiscard]] std::vector<Peer*> promising() const;
  void next_of_race(const std::shared_ptr<FileRace>& race);
  [[nodiscard]] std::optional<Part> run(std::size_t peer, const std::string& what, std::uint64_t max_size,
                                        const std::function<Transfer()>& make,
                                        TransferEnd::Kind* how = nullptr);
  [[nodiscard]] std::optional<Part> read_end(std::size_t peer, const std::string& path, std::uint64_t size,
                                             std::uint64_t max_size);

  const std::function<void(const std::string&)> on_note_;
  const Clock::duration retry_for_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::function<void(Peer&)> on_ban_;
  std::minstd_rand random_{std::random_device()()};
  Transfers transfers_;  // last: its loop uses the rest
};

}  // namespace vat::internal
