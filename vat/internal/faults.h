// Where blobs are: in the vats of this disk, in the cache, or in packs of peers; and how one that is missing
// is got into the cache.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "formats/base/error.h"
#include "vat/internal/blob_cache.h"
#include "vat/internal/fetcher.h"
#include "vat/internal/peer_index.h"
#include "vat/internal/peers.h"
#include "vat/internal/plan.h"
#include "vat/peer_set.h"

namespace vat::internal {

/// What the peers have of the map of a root.
struct FoundMap {
  std::unique_ptr<RootMap> map;  ///< nullptr: nobody has one that can be read
  bool is_exact = false;         ///< it is of the same layout, or recipe
  std::size_t peer = 0;          ///< who gave it
};

/// Thread-safety: any member from any thread. Errors: as PeerSet.
class Faults {
 public:
  Faults(base::ObjectFormat format, std::vector<std::shared_ptr<Vat>> local,
         const std::vector<PeerAddress>& peers, const PeerOptions& options);
  ~Faults();
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  [[nodiscard]] BlobCache& cache() noexcept { return cache_; }
  [[nodiscard]] Peers& peers() noexcept { return peers_; }
  [[nodiscard]] Fetcher& fetcher() noexcept { return fetcher_; }
  /// The vats of this disk as one; nullptr: none.
  [[nodiscard]] SourceSet* local() noexcept { return local_.get(); }
  [[nodiscard]] const std::vector<std::shared_ptr<Vat>>& vats() const noexcept { return vats_; }

  /// On this disk.
  [[nodiscard]] std::optional<StoredBlob> find_here(const base::ObjectId& id);
  [[nodiscard]] bool is_here(const base::ObjectId& id) { return find_here(id).has_value(); }

  /// Gets a blob into the cache, wherever it lies. `failure`: of an earlier attempt.
  void fault(const base::ObjectId& id, std::optional<base::Error> failure = {});
  /// Gets the recipe to which the map of a file leads. False if there is none.
  bool fetch_recipe(const base::ObjectId& content);
  /// Asks for blobs whose places are known, and does not wait for them.
  void prefetch(const std::vector<base::ObjectId>& ids);

  [[nodiscard]] FoundMap find_map(const Root& root);
  /// In packs of peers.
  [[nodiscard]] std::vector<PeerPlace> locate(const base::ObjectId& id);
  void remember_place(const Met& met, const RootMap::Place& place);

 private:
  /// With index_mutex_ held: as far as it is known without asking.
  [[nodiscard]] std::vector<PeerPlace> known_places(const base::ObjectId& id);

  const base::ObjectFormat format_;
  const std::vector<std::shared_ptr<Vat>> vats_;  // shared: the writable one is used alone, too
  std::unique_ptr<SourceSet> local_;
  BlobCache cache_;
  std::mutex index_mutex_;  ///< guards what follows
  PeerIndex index_;
  struct Learnt {
    std::uint32_t pack, position;
    formats::GroupPlace place;
    std::uint64_t size;
  };
  std::unordered_map<base::ObjectId, Learnt> learnt_;
  std::vector<std::string> learnt_packs_;
  std::map<std::string, std::uint32_t> learnt_numbers_;
  Peers peers_;
  Fetcher fetcher_;  // last: it keeps in the cache what comes
};

}  // namespace vat::internal
