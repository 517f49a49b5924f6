// Gets groups from a set of peers: which peer is asked for what, what happens when one is slow, dead,
// incomplete or lying. docs/design.md, "Fetching"
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/object_id.h"
#include "formats/base/worker_pool.h"
#include "formats/pack/pack.h"
#include "vat/internal/pack_group.h"
#include "vat/internal/peers.h"

namespace vat::internal {

class Fetcher {
 public:
  /// Called on any thread with a group that was wanted and proven.
  using Keep = std::function<void(FetchedGroup)>;

  /// `threads`: that decode and hash; 0: one per core. The peers outlive it.
  Fetcher(base::ObjectFormat format, Peers& peers, unsigned threads, Keep keep);
  ~Fetcher();
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  struct Ticket;
  using TicketPtr = std::shared_ptr<Ticket>;  // shared: by askers, and with transfers under way

  /// Asks for groups; one that is asked for already, or was got, is not asked for again. `source`: the peer
  /// whose map says that they are there. Urgent ones come first.
  [[nodiscard]] std::vector<TicketPtr> want(const std::vector<PackGroup>& groups,
                                            std::optional<std::size_t> source, bool urgent);
  /// The same for one group, unless it has come since it was missed: `is_here`, asked on the loop, says that
  /// of what is to be read from it. nullptr then.
  [[nodiscard]] TicketPtr want_missed(const PackGroup& group, const std::function<bool()>& is_here);
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

  static constexpr std::uint64_t kGap = std::uint64_t{32}
                                        << 10;  ///< bytes nobody wants that cost less than a request
  static constexpr std::uint64_t kRead = std::uint64_t{4}
                                         << 20;  ///< bytes of one request, at most (or one group)

 private:
  using PackNumber = std::uint32_t;
  using Key = std::tuple<PackNumber, std::uint64_t, std::uint32_t>;  ///< pack, offset, size
  using Peer = Peers::Peer;
  struct Read;
  struct Load;

  // --- on the loop
  TicketPtr want_on_loop(const PackGroup& group, std::optional<std::size_t> source, bool urgent);
  void pump();
  [[nodiscard]] std::vector<TicketPtr> gather(const TicketPtr& head, std::uint64_t size) const;
  struct Choice {
    Peer* peer = nullptr;  ///< the one that is to be asked, now or when it has room
    bool later = false;    ///< one may be asked later
  };
  [[nodiscard]] Choice choose(const Ticket& ticket, std::uint64_t size, const Peer* besides) const;
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
  void stop_reads(const std::function<bool(const Read&)>& which);
  void hedge();
  void keep_watching();
  [[nodiscard]] Load& load(const Peer& peer) const;
  [[nodiscard]] PackNumber number_of(const std::string& pack);
  void settle(const TicketPtr& ticket, std::optional<base::Error> failure);

  const base::ObjectFormat format_;
  Peers& peers_;
  Transfers& transfers_;
  const Keep keep_;

  std::mutex mutex_;  ///< guards results and expectations of tickets; never held while anything is called
  std::uint64_t unconfirmed_ = 0;  ///< content bytes that nobody expects yet; guarded by mutex_
  std::condition_variable settled_;
  std::mutex keep_mutex_;  ///< one group is kept at a time

  // Only the loop touches what follows.
  std::vector<std::unique_ptr<Load>> loads_;  ///< of each peer
  std::vector<std::string> packs_;
  std::map<std::string, PackNumber> pack_numbers_;
  std::map<Key, TicketPtr> tickets_;  ///< of what is asked for and not kept yet, in the order of places
  std::deque<TicketPtr> queue_;
  std::map<std::uint64_t, std::unique_ptr<Read>> reads_;
  std::uint64_t last_read_ = 0;
  std::uint64_t in_flight_ = 0, verifying_ = 0;  ///< bytes
  Transfers::Id watch_ = 0;                      ///< timer; 0: nothing to watch
  Clock::time_point watch_at_{};                 ///< when it rings
  bool stopping_ = false;

  std::unique_ptr<base::WorkerPool> pool_;  ///< its threads post to the loop, and the loop submits to it
};

}  // namespace vat::internal
