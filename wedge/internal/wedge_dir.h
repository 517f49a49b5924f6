// The directory of a wedge, and what a sync keeps in .shrub below it. docs/formats/wedge-state.md
#pragma once

#include <optional>
#include <string>

#include "formats/base/unique_fd.h"
#include "wedge/internal/record.h"
#include "wedge/stat_cache.h"

namespace wedge::internal {

/// Not for several threads at once.
class WedgeDir {
 public:
  /// Makes what is missing and takes the wedge's lock, which goes with this object: busy if a sync has it.
  /// `read_only`: makes and locks nothing; there may be no wedge at all. `cache` may be nullptr.
  /// `on_note` (may be empty) is told what could not be done and stops nothing.
  WedgeDir(const std::string& path, bool read_only, StatCache* cache,
           std::function<void(const std::string&)> on_note);

  /// The wedge itself; -1 if there is none. The others are -1 if it is read only, but for records().
  [[nodiscard]] int top() const noexcept { return top_.get(); }
  [[nodiscard]] int tmp() const noexcept { return tmp_.get(); }
  [[nodiscard]] int old() const noexcept { return old_.get(); }          ///< previous states of entries
  [[nodiscard]] int records() const noexcept { return records_.get(); }  ///< -1 if there are none
  [[nodiscard]] StatCache* cache() const noexcept { return cache_; }

  /// The directory `path`; nullopt if it does not exist; refused if something else stands there.
  [[nodiscard]] std::optional<base::UniqueFd> find_parent(const std::string& path) const;
  /// nullopt also if something else stands there.
  [[nodiscard]] std::optional<base::UniqueFd> look_for_parent(const std::string& path) const;
  /// Durable after the next syncfs.
  [[nodiscard]] base::UniqueFd make_parent(const std::string& path) const;

  /// What an entry holds; nullopt if no sync made it.
  [[nodiscard]] std::optional<Record> find_record(const std::string& path) const;
  /// Removes the previous state of an entry, by the name of its record. What it shares with the present one
  /// stays known.
  void discard_old(const std::string& name) const;
  /// Removes `name` of one of the directories of .shrub, or says that it cannot be.
  void clear(int dir, const std::string& name) const;
  void note(const std::string& text) const;

  /// Until now nobody else could change the files that were made; whoever does from here on leaves another
  /// ctime than the cache has.
  void wait_for_clock() const;

 private:
  StatCache* const cache_;
  const std::function<void(const std::string&)> on_note_;
  base::UniqueFd top_, state_, lock_, tmp_, old_, records_;
};

}  // namespace wedge::internal
