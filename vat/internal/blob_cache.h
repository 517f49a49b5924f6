// What was fetched from peers, kept on the local disk as a vat of its own: found there it is not fetched
// again.
#pragma once

#include <atomic>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "formats/base/worker_pool.h"
#include "vat/internal/group_cache.h"
#include "vat/internal/pack_file.h"
#include "vat/internal/pack_group.h"
#include "vat/internal/turns.h"
#include "vat/vat.h"

namespace vat::internal {

struct CacheOptions {
  std::string
      directory;  ///< for all caches; empty: what is fetched is kept in memory only, as long as it fits
  std::uint64_t budget = std::uint64_t{16} << 30;  ///< bytes of packs; more than that and the least used go
  NoteSink on_note;
};

/// Groups are written as they come and published as packs of some megabytes; what a process that was ended
/// had not published yet is found, proven and kept by the next one. Several processes share one cache.
///
/// Thread-safety: any member from any thread. Errors: as Vat.
class BlobCache final : public BlobSource {
 public:
  BlobCache(base::ObjectFormat format, CacheOptions options);
  ~BlobCache() override;

  /// What it is kept in; nullptr: memory only.
  [[nodiscard]] Vat* vat() const noexcept { return vat_.get(); }
  /// Keeps a proven group; blobs of it may be there already.
  void keep(FetchedGroup group);
  /// Returns when all that was kept is durable, and others can find it.
  void publish();
  /// Before a root is fetched: waits while another process fetches it, as long as that gets on. One thread at
  /// a time calls this and end_turns().
  void take_turn(const base::ObjectId& root, const std::function<bool()>& is_over);
  /// After all that was asked for has come: publishes it if it is much, or somebody waits for it.
  void end_turns();

  /// Nothing is evicted by this process from here on.
  void hold() noexcept { is_held_ = true; }
  /// Packs that hold any of the blobs stay, whatever the budget, until unpin() of the same root. What is not
  /// here is left out. Durable.
  void pin(const base::ObjectId& root, const std::vector<base::ObjectId>& blobs);
  void unpin(const base::ObjectId& root);

  [[nodiscard]] base::ObjectFormat object_format() const noexcept override { return format_; }
  [[nodiscard]] std::optional<StoredBlob> find(const base::ObjectId& id) override;
  [[nodiscard]] base::Buffer read(const base::ObjectId& id) override;
  void stream(const base::ObjectId& id, const base::ByteSink& sink) override;
  [[nodiscard]] std::vector<RecipeClaim> find_recipes(const base::ObjectId& id) override;
  void note_proven(const base::ObjectId& content, const base::ObjectId& recipe, std::uint64_t size) override;

 private:
  struct Pending {
    explicit Pending(Vat::Impl& vat) : file(vat) {}
    PackFile file;
    std::vector<Claim> claims;
    std::vector<base::ObjectId> ids;
  };
  struct Unpublished {
    std::shared_ptr<Pending> pack;  // shared: readers may outlive its publication
    formats::GroupPlace place;
    std::uint32_t position;
    StoredBlob blob;
  };

  /// The blob, if it is in memory or in a pack that is not published yet.
  [[nodiscard]] std::optional<ProvenBlob> find_fresh(const base::ObjectId& id);
  void publish_in_background_locked();
  void publish(const std::shared_ptr<Pending>& pack);
  void salvage();
  void evict(std::uint64_t budget);
  void mark_used();
  [[nodiscard]] std::uint64_t size_in_work() const;
  [[nodiscard]] std::set<std::string> pinned_packs() const;

  const base::ObjectFormat format_;
  const CacheOptions options_;
  std::unique_ptr<Vat> vat_;  ///< nullptr: there is no directory
  std::optional<Turns> turns_;
  std::atomic<bool> is_held_ = false;
  GroupCache recent_;
  std::mutex mutex_;  ///< guards what follows
  std::int64_t last_group_ = 0;
  std::shared_ptr<Pending> current_;  // shared: see Unpublished
  std::unordered_map<base::ObjectId, Unpublished> unpublished_;
  std::vector<std::future<void>> publishing_;
  base::WorkerPool publisher_{1};  // last: uses the rest
};

}  // namespace vat::internal
