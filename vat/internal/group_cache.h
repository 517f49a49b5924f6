// Decoded and proven groups, shared by readers: neighbours in a pack are usually read one after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "formats/pack/pack.h"

namespace vat::internal {

/// A blob of a group whose bytes were hashed.
struct ProvenBlob {
  std::shared_ptr<const formats::DecodedGroup> group;  // shared: readers may outlive the cache's entry
  std::size_t position;
  [[nodiscard]] base::Bytes bytes() const { return group->blob(position); }
};

/// Least recently used groups within a budget of content bytes; several readers of one group decode it once.
/// Thread-safety: any thread.
class GroupCache {
 public:
  using Group = std::shared_ptr<const formats::DecodedGroup>;  // shared: readers may outlive the entry
  using Key = std::pair<std::int64_t, std::uint64_t>;          ///< pack number and offset

  explicit GroupCache(std::size_t budget) : budget_(budget) {}
  /// The group of that key, its blobs named, from `decode` if it is not here. If that fails, each reader that
  /// waited for it tries once more by itself.
  [[nodiscard]] Group find_or(const Key& key, const std::function<Group()>& decode);
  /// A blob of a group that is here.
  [[nodiscard]] std::optional<ProvenBlob> find(const base::ObjectId& id);

 private:
  struct Entry {
    std::shared_future<Group> group;
    std::list<Key>::iterator used;
    std::size_t size = 0;  ///< 0 while being decoded
  };
  void forget(std::map<Key, Entry>::iterator entry);
  std::mutex mutex_;  ///< guards what follows
  std::map<Key, Entry> entries_;
  std::list<Key> order_;  ///< least recently used first
  std::unordered_map<base::ObjectId, std::pair<Key, std::size_t>> blobs_;
  std::size_t budget_, total_ = 0;
};

}  // namespace vat::internal
