// Vats on this disk, the cache and vats elsewhere as one source: what is missing here is fetched, proven and
// kept. Start reading about peers here; internal/fetcher.h asks them, docs/design.md ("Fetching") says how.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vat/blob_source.h"
#include "vat/peer_address.h"
#include "vat/vat.h"

namespace vat {

/// Proxies, as the variables http_proxy, https_proxy (or HTTPS_PROXY), all_proxy (or ALL_PROXY) and no_proxy
/// (or NO_PROXY) name them. What they are and where they lie is the user's own word.
struct ProxySettings {
  std::string http, https, all, none;
};

struct PeerOptions {
  std::string cache_dir;                               ///< for what is fetched; empty: memory only
  std::uint64_t cache_size = std::uint64_t{16} << 30;  ///< bytes that are kept
  std::uint64_t rate = 0;                              ///< bytes a second of all peers together; 0: any
  std::string certificates;  ///< file of those to trust, instead of the system's; empty: the system's
  unsigned threads = 0;      ///< that decode and hash; 0: one per core
  /// How long a host that has no time, or ends connections for a while, is waited for after it last sent
  /// something.
  std::chrono::seconds retry_for{60};
  ProxySettings proxies;
  NoteSink on_note;  ///< called from any thread, one call at a time
};

/// What a peer was to this run.
struct PeerReport {
  std::string name;
  std::uint64_t requests = 0, received = 0;  ///< received: bytes of bodies
  std::uint64_t failures = 0;
  double latency = 0;   ///< seconds to the first byte, moving average; 0: unknown
  double rate = 0;      ///< bytes a second, moving average; 0: unknown
  std::string trouble;  ///< what failed last, or why it is asked no more
};

/// Peers that were asked in earlier runs; `name`, `latency` and `rate` count.
[[nodiscard]] std::vector<PeerReport> known_peers(const std::string& cache_dir);

struct PeerTest {
  base::ObjectFormat object_format{};
  std::uint64_t packs = 0;
  bool ranges = true;  ///< it sends parts of files
  double latency = 0, rate = 0;
};
/// Asks a peer for what every reader needs. Throws no_store if there is no vat, network, authentication,
/// refused.
[[nodiscard]] PeerTest test_peer(const PeerAddress& peer, const PeerOptions& options);

/// A blob that is missing or bad in one place is taken from another. Nothing is fetched that is here, and
/// nothing twice: several readers of one missing group cause one request.
///
/// Errors besides those of BlobSource: network, wrong_bytes, authentication, refused (see PeerAddress).
/// not_found means that every peer was asked.
class PeerSet final : public BlobSource {
 public:
  /// `local` may be empty, `peers` not. Nobody is asked before something is missing.
  PeerSet(base::ObjectFormat format, std::vector<std::shared_ptr<Vat>> local,
          const std::vector<PeerAddress>& peers, const PeerOptions& options);
  /// One peer; its object format is asked of it. Throws no_store if there is no vat.
  [[nodiscard]] static std::unique_ptr<PeerSet> open(const PeerAddress& peer, const PeerOptions& options);
  /// Publishes what was fetched to the cache.
  ~PeerSet() override;

  [[nodiscard]] base::ObjectFormat object_format() const noexcept override;
  [[nodiscard]] std::optional<StoredBlob> find(const base::ObjectId& id) override;
  [[nodiscard]] base::Buffer read(const base::ObjectId& id) override;
  void stream(const base::ObjectId& id, const base::ByteSink& sink) override;
  [[nodiscard]] std::vector<RecipeClaim> find_recipes(const base::ObjectId& id) override;
  void note_proven(const base::ObjectId& content, const base::ObjectId& recipe, std::uint64_t size) override;
  [[nodiscard]] std::optional<base::UniqueFd> find_file(const base::ObjectId& id) override;
  void expect(const Expected& expected) override;
  void expect_nothing() override;
  void learn(const Root& root, bool content) override;
  void prefetch(const std::vector<base::ObjectId>& ids) override;

  /// As find(), but asks no peer.
  [[nodiscard]] std::optional<StoredBlob> find_here(const base::ObjectId& id);

  /// Fetches everything of a root that is not here, and returns when it is durable. `pin`: what of it is in
  /// the cache stays there, whatever the budget, until unpin(); throws local if there is no directory for
  /// that.
  void fetch(const Expected& expected, bool pin = false);
  void unpin(const Root& root);

  /// What reading a root would fetch now. Texts that are not here are fetched for it.
  struct Travel {
    std::uint64_t size = 0;      ///< bytes of groups
    std::uint64_t requests = 0;  ///< about
    std::uint64_t unknown = 0;   ///< blobs of which no map says where they lie
    std::string from;            ///< the peer that is asked first; empty: nothing would travel
  };
  [[nodiscard]] Travel estimate(const Expected& expected);

  /// Where a blob lies in packs of its peers.
  [[nodiscard]] std::vector<PackedPlace> find_places(const base::ObjectId& id);
  /// URLs of its peers, as they were given, without a slash at the end.
  [[nodiscard]] std::vector<std::string> peer_names() const;

  [[nodiscard]] std::vector<PeerReport> report();
  /// Bytes of bodies, from all peers.
  [[nodiscard]] std::uint64_t received();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vat
