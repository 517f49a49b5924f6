// What peers said of themselves, kept from run to run: where blobs lie in their packs, how quick they are.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "formats/base/object_id.h"
#include "vat/blob_source.h"
#include "vat/internal/index.h"
#include "vat/internal/pack_group.h"
#include "vat/internal/peers.h"

namespace vat::internal {

struct PeerPlace {
  PackGroup group;
  std::uint32_t position = 0;
  StoredBlob blob;
};

/// A pack is the same wherever it lies, so there is one index for all peers. One thread at a time. It can be
/// lost at any time.
class PeerIndex {
 public:
  /// Without a directory it is in memory.
  PeerIndex(base::ObjectFormat format, const std::string& cache_dir);

  [[nodiscard]] std::vector<PeerPlace> find(const base::ObjectId& id);
  /// The same, and as long as there is none it asks on.
  [[nodiscard]] std::vector<PeerPlace> locate(Peers& peers, const base::ObjectId& id);
  /// Asks one more peer, the most promising that was not asked yet in this run (or failed some seconds ago),
  /// for its list of packs, and for what those hold that are not known. False if there was nobody left to
  /// ask.
  bool update(Peers& peers);
  /// Why what a peer has is not all known.
  [[nodiscard]] std::optional<base::Error> trouble() const {
    return failed_.empty() ? std::nullopt : std::optional(failed_.begin()->second.why);
  }
  /// For each peer, why something may not be there: no vat, no list of packs, or just not there.
  [[nodiscard]] const std::vector<std::string>& absences(Peers& peers);
  /// What was told of a pack turned out wrong.
  void forget(const std::string& pack);

  /// Gets a hand-filled blob from whoever has it. False if nobody has.
  bool fetch_loose(Peers& peers, const base::ObjectId& id, const std::function<void(FetchedGroup)>& keep);

  [[nodiscard]] std::vector<std::pair<std::string, PeerRecord>> records();
  void load_records(Peers& peers);
  void save_records(Peers& peers);

 private:
  void learn(Peers& peers, std::size_t peer, const std::string& pack);
  void learn_tables(Peers& peers, std::size_t peer, std::set<std::string>& unknown);

  const base::ObjectFormat format_;
  std::unique_ptr<Index> index_;
  std::unique_ptr<formats::Database> records_;
  struct Failure {
    base::Error why;
    Clock::time_point again;  ///< not asked before
  };
  std::set<std::size_t> asked_;
  std::map<std::size_t, Failure> failed_;  ///< by peer
  std::vector<std::string> absences_;
};

}  // namespace vat::internal
