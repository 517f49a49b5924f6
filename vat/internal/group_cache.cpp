#include "vat/internal/group_cache.h"

namespace vat::internal {

GroupCache::Group GroupCache::find_or(const Key& key, const std::function<Group()>& decode) {
  std::promise<Group> promise;
  {
    std::unique_lock lock(mutex_);
    if (const auto known = entries_.find(key); known != entries_.end()) {
      order_.splice(order_.end(), order_, known->second.used);
      const auto group = known->second.group;
      lock.unlock();
      if (auto decoded = group.get()) return decoded;
      return decode();  // the other thread's failed; so does this, most likely, with an error of its own
    }
    entries_[key] = {promise.get_future().share(), order_.insert(order_.end(), key), 0};
  }
  Group group;
  try {
    group = decode();
  } catch (...) {
    promise.set_value(nullptr);  // not the exception, which would be shared between threads
    const std::lock_guard lock(mutex_);
    order_.erase(entries_.at(key).used);
    entries_.erase(key);
    throw;
  }
  promise.set_value(group);
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.at(key);
  entry.size = group->content.size();
  total_ += entry.size;
  for (std::size_t i = 0; i < group->blobs.size(); ++i)
    blobs_.insert_or_assign(group->blobs[i].id, std::pair(key, i));
  for (auto oldest = order_.begin(); total_ > budget_ && oldest != order_.end();) {
    const auto victim = entries_.find(*oldest);
    if (victim->first == key || victim->second.size == 0) {
      ++oldest;
      continue;
    }
    ++oldest;
    forget(victim);
  }
  return group;
}

std::optional<ProvenBlob> GroupCache::find(const base::ObjectId& id) {
  const std::lock_guard lock(mutex_);
  const auto blob = blobs_.find(id);
  if (blob == blobs_.end()) return std::nullopt;
  const auto& [key, position] = blob->second;
  const auto& entry = entries_.at(key);
  order_.splice(order_.end(), order_, entry.used);
  return ProvenBlob{entry.group.get(), position};
}

void GroupCache::forget(std::map<Key, Entry>::iterator entry) {
  const auto group = entry->second.group.get();
  for (const auto& blob : group->blobs)
    if (const auto known = blobs_.find(blob.id); known != blobs_.end() && known->second.first == entry->first)
      blobs_.erase(known);
  total_ -= entry->second.size;
  order_.erase(entry->second.used);
  entries_.erase(entry);
}

}  // namespace vat::internal
