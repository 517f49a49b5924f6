// Reading and planning. A reader that misses a blob waits for the ticket of the group it is planned to come
// in; if it is in no plan, its place is looked up in what peers say of their packs. The planner walks the
// root that is expected ahead of its readers, on a thread of its own, and asks for what is not here.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "formats/delta/delta.h"
#include "vat/internal/far_server.h"
#include "vat/internal/faults.h"

namespace vat::internal {

/// Thread-safety: find() and stream() from any thread, the rest one at a time. Errors: as PeerSet.
class Planner {
 public:
  Planner(base::ObjectFormat format, Faults& faults, const PeerOptions& options);
  ~Planner();
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  [[nodiscard]] std::optional<StoredBlob> find(const base::ObjectId& id);
  void stream(const base::ObjectId& id, const base::ByteSink& sink) { stream(id, sink, false); }

  /// The others are those of PeerSet.
  void expect(const Expected& expected);
  void stop();
  void fetch(const Expected& expected);
  void learn(const Root& root, bool content);
  [[nodiscard]] PeerSet::Travel estimate(const Expected& expected);

 private:
  struct Plan;
  struct Releasing;
  struct Planned {
    Fetcher::TicketPtr ticket;  ///< nullptr: nobody knows where it lies
    std::uint64_t at = 0;       ///< content bytes planned before it
  };

  void stream(const base::ObjectId& id, const base::ByteSink& sink, bool of_planner);
  std::optional<Planned> planned(const base::ObjectId& id);
  std::optional<StoredBlob> read_planned(const base::ObjectId& id);
  /// True if it was planned and has come; `failure`: why it has not.
  bool wait_for_planned(const base::ObjectId& id, std::optional<base::Error>& failure);
  /// A reader that is ahead of the planner waits for it. False if it is waiting for nothing.
  bool wait_for_plan(const base::ObjectId& id);
  /// Walks the root and asks for what is not here.
  void run(Plan& the, const Expected& expected);
  /// When what the plan has asked for has come.
  void end_turns();
  /// Whether it asks for data.
  static bool fetches(const Plan& the);
  void ask_for(Plan& the, const Met& met, std::uint64_t index);
  bool stopped();
  std::optional<RootMap::Place> place_of(Plan& the, const Met& met, std::uint64_t index);
  /// False if there is none for this root.
  bool open_server(Plan& the, const Expected& expected);
  /// What came from it is of its peer.
  void count_server();
  void no_server(const base::Error& error);
  static void require_at_most(const Plan& the, std::uint64_t size);
  bool take_from_server(Plan& the, const base::ObjectId& id);
  /// After all texts were met.
  void take_data_from_server(Plan& the);
  /// It has not what it should: what it has not given is asked for as if there were none.
  void leave_server(Plan& the);
  void open_map(Plan& the);
  /// Uses a delta from a root that is here, if it is smaller than what the root brought with it.
  void open_delta(Plan& the);
  void close_delta(Plan& the, const base::Error& error);
  /// Keeps the next group that it gives. False at the end.
  bool take_group(Plan& the, formats::DeltaReader& from);
  /// Reads on in the delta until it has given the blob. False if it does not.
  bool take_from_delta(Plan& the, const base::ObjectId& id);
  void flush(Plan& the);

  const base::ObjectFormat format_;
  const std::uint64_t rate_;
  const NoteSink on_note_;
  Faults& faults_;
  BlobCache& cache_;
  Peers& peers_;
  Fetcher& fetcher_;

  std::mutex learning_;
  // One plan at a time uses these.
  std::unique_ptr<FarServer> server_;
  std::size_t served_by_ = 0;  ///< peer
  std::uint64_t counted_ = 0;  ///< bytes of it
  bool has_no_server_ = false;

  std::mutex mutex_;  ///< guards what follows
  std::condition_variable moved_;
  bool planning_ = false, stop_plan_ = false;
  bool hungry_ = false;        ///< a reader is ahead of the planner
  bool is_far_ahead_ = false;  ///< the planner waits for readers
  std::uint64_t read_up_to_ = 0;
  std::unordered_map<base::ObjectId, Planned> planned_;
  std::deque<std::pair<std::uint64_t, base::ObjectId>> planned_order_;
  std::thread planner_;
};

}  // namespace vat::internal
