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
      return group.get();
    }
    entries_[key] = {promise.get_future().share(), order_.insert(order_.end(), key), 0};
  }
  try {
    auto group = decode();
    promise.set_value(group);
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(key);
    entry.size = group->content.size();
    total_ += entry.size;
    for (auto oldest = order_.begin(); total_ > budget_ && oldest != order_.end();) {
      const auto victim = entries_.find(*oldest);
      if (victim->first == key || victim->second.size == 0) {
        ++oldest;
        continue;
      }
      total_ -= victim->second.size;
      entries_.erase(victim);
      oldest = order_.erase(oldest);
    }
    return group;
  } catch (...) {
    promise.set_exception(std::current_exception());
    const std::lock_guard lock(mutex_);
    order_.erase(entries_.at(key).used);
    entries_.erase(key);
    throw;
  }
}

}  // namespace vat::internal
