// Gets groups and small files from a set of peers: which peer is asked for what, what happens when one is
// slow, dead, incomplete or lying. docs/design.md, "Fetching"
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/object_id.h"
#include "formats/base/worker_pool.h"
#include "formats/pack/pack.h"
#include "vat/internal/host.h"
#include "vat/internal/transfers.h"

namespace vat::internal {

/// A proven group: what came, and what it holds.
struct FetchedGroup {
  base::Buffer bytes;                                    ///< header and frame
  std::shared_ptr<const formats::DecodedGroup> content;  // shared: with readers. Blobs are named.
};

/// A group of a pack, wherever that is to be had.
struct PackGroup {
  std::string pack;  ///< SHA-256 in hex
  formats::GroupPlace place{};
};

/// What is known of a peer from earlier, and what this run adds.
struct PeerRecord {
  double latency = 0;  ///< seconds to the first byte; 0: unknown
  double rate = 0;     ///< bytes a second; 0: unknown
  std::uint64_t requests = 0, received = 0;
  std::uint64_t failures = 0;
  std::string trouble;  ///< why it is asked no more, or what failed last; empty: nothing
  bool banned = false;  ///< for wrong bytes
};

class Fetcher {
 public:
  struct Options {
    TransferLimits limits;
    unsigned threads = 0;  ///< that decode and hash; 0: one per core
    std::function<void(const std::string&)> on_note;
  };
  /// Called on any thread with a group that was wanted and proven.
  using Keep = std::function<void(FetchedGroup)>;

  Fetcher(base::ObjectFormat format, std::vector<PeerAddress> peers, Options options, Keep keep);
  ~Fetcher();
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  struct Ticket;
  using TicketPtr = std::shared_ptr<Ticket>;  // shared: by askers, and with transfers under way

  /// Asks for groups; one that is asked for already, or was got, is not asked for again. `source`: the peer
  /// whose map says that they are there. Urgent ones come first.
  [[nodiscard]] std::vector<TicketPtr> want(const std::vector<PackGroup>& groups,
                                            std::optional<std::size_t> source, bool urgent);
  /// The blob at that position of the group has to be `id`. A group is kept once somebody expects something
  /// of it.
  void expect(const TicketPtr& ticket, std::uint32_t position, const base::ObjectId& id);
  /// Returns when the group was kept. Throws what came of it: wrong_bytes, network, not_found,
  /// authentication, refused.
  void wait(const TicketPtr& ticket);
  /// Forgets those of which nobody expects anything.
  void release(const std::vector<TicketPtr>& tickets);
  /// What a group holds whose blobs nobody expects yet. nullptr if it is kept already. Throws as wait().
  [[nodiscard]] std::shared_ptr<const formats::DecodedGroup> peek(const TicketPtr& ticket);
  /// Forgets what is asked for and not under way.
  void drop_queue();

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

  /// Names in a directory of a peer's vat. nullopt if the host cannot tell, or there is no such directory.
  /// Throws as read_part.
  [[nodiscard]] std::optional<std::vector<std::string>> list(std::size_t peer, const std::string& directory);

  /// Those that are asked at all, the quickest first.
  [[nodiscard]] std::vector<std::size_t> by_promise();
  /// The name of the one that is asked first; empty if there is none.
  [[nodiscard]] std::string best_peer();
  static constexpr std::uint64_t kGap = std::uint64_t{32}
                                        << 10;  ///< bytes nobody wants that cost less than a request
  static constexpr std::uint64_t kRead = std::uint64_t{4}
                                         << 20;  ///< bytes of one request, at most (or one group)

  [[nodiscard]] std::size_t peer_count() const noexcept { return peers_.size(); }
  [[nodiscard]] const std::string& peer_name(std::size_t peer) const;
  /// Whether it is asked at all.
  [[nodiscard]] bool is_usable(std::size_t peer);
  /// Why something that nobody was found to have may be somewhere all the same: peers that were not asked, or
  /// do not answer. Names each peer; `absences`: what to say of those that answered. not_found if all of them
  /// did.
  [[nodiscard]] base::Error failure(const std::string& what, const std::vector<std::string>& absences);
  /// The peer told something that is not so.
  void ban(std::size_t peer, const std::string& why);
  [[nodiscard]] std::vector<PeerRecord> records();
  void set_record(std::size_t peer, const PeerRecord& record);

 private:
  using PackNumber = std::uint32_t;
  using Key = std::tuple<PackNumber, std::uint64_t, std::uint32_t>;  ///< pack, offset, size
  struct Peer;
  struct Read;
  struct FileRace;

  [[nodiscard]] std::optional<Part> run(std::size_t peer, const std::string& what, std::uint64_t max_size,
                                        const std::function<Transfer()>& make);

  // --- on the loop
  void pump();
  [[nodiscard]] std::vector<TicketPtr> gather(const TicketPtr& head, std::uint64_t size) const;
  struct Choice {
    Peer* peer = nullptr;  ///< the one that is to be asked, now or when it has room
    bool later = false;    ///< one may be asked later
  };
  [[nodiscard]] Choice choose(const Ticket& ticket, std::uint64_t size, const Peer* besides) const;
  [[nodiscard]] double finish_time(const Peer& peer, std::uint64_t size) const;
  [[nodiscard]] std::uint64_t read_size(const Peer& peer) const;
  void start_read(Peer& peer, std::vector<TicketPtr> tickets);
  bool take_bytes(Read& read, base::Bytes bytes);
  void end_read(Read& read, const TransferEnd& end);
  void close_read(std::uint64_t number);
  void verify(TicketPtr ticket, std::size_t peer, base::Buffer bytes);
  struct Checked {
    std::string damage;    ///< why it is not what is wanted; empty: it is
    std::string digest;    ///< of what came, then
    bool is_group = true;  ///< what came is a sound group, if not the one that is wanted
  };
  void verified(const TicketPtr& ticket, std::size_t peer, std::uint64_t size, const Checked& checked);
  void wrong_bytes(Peer& peer, const TicketPtr& ticket, const Checked& checked);
  void forget(const Ticket& ticket);
  [[nodiscard]] FetchedGroup take_unconfirmed(Ticket& ticket);
  void keep(const TicketPtr& ticket, FetchedGroup group);
  void requeue(const TicketPtr& ticket);
  void give_up(const TicketPtr& ticket);
  void note_failure(Peer& peer, const TransferEnd& end);
  void note_success(Peer& peer, const TransferEnd& end);
  void ban_on_loop(Peer& peer, const std::string& why);
  void hedge();
  void keep_watching();
  void next_of_race(const std::shared_ptr<FileRace>& race);
  [[nodiscard]] std::vector<Peer*> promising() const;
  [[nodiscard]] PackNumber number_of(const std::string& pack);
  void settle(const TicketPtr& ticket, std::optional<base::Error> failure);
  void note(const std::string& text);

  const base::ObjectFormat format_;
  const Options options_;
  const Keep keep_;

  std::mutex mutex_;  ///< guards results and expectations of tickets; never held while anything is called
  std::uint64_t unconfirmed_ = 0;  ///< content bytes that nobody expects yet; guarded by mutex_
  std::condition_variable settled_;
  std::mutex keep_mutex_;  ///< one group is kept at a time

  // Only the loop touches what follows.
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::string> packs_;
  std::map<std::string, PackNumber> pack_numbers_;
  std::map<Key, TicketPtr> tickets_;  ///< of what is asked for and not kept yet, in the order of places
  std::deque<TicketPtr> queue_;
  std::map<std::uint64_t, std::unique_ptr<Read>> reads_;
  std::uint64_t last_read_ = 0;
  std::uint64_t in_flight_ = 0, verifying_ = 0;  ///< bytes
  bool watching_ = false;
  std::minstd_rand random_{std::random_device()()};

  bool stopping_ = false;

  Transfers transfers_;
  std::unique_ptr<base::WorkerPool> pool_;  ///< its threads post to the loop, and the loop submits to it
};

}  // namespace vat::internal
