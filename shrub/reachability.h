// Which roots the vrefs of a repository need: those of its commits, of the index and of the working tree.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>

#include "formats/vref/vref.h"

namespace shrub {

/// Where vrefs are looked for.
struct ReachOptions {
  bool worktree = true, index = true, refs = true;
  bool reflog = true;  ///< with refs: what they were before, too
  std::optional<std::int64_t>
      since;  ///< commits before that time, seconds since 1970, only if a ref names them
  bool absent_worktrees =
      false;  ///< go on although a working tree is absent of which something says it will be back
  bool needs_repository = false;  ///< refuse a shrub that lies in none: its history is not known
  std::function<void(const std::string&)> on_note;  ///< what was passed over; may be empty
};

/// What was looked at. All of a repository is looked at together, once, in whichever of its working trees it
/// is met.
struct Visited {
  std::set<std::string> repositories;  ///< their git directories; commits and indexes
  std::set<std::string> trees;         ///< working trees
  std::set<std::string> shrubs;        ///< their roots, as they lie there
};

/// A vref, and one of the places where it is.
struct ReachedVref {
  std::string where;  ///< hex of a commit; "index", "worktree", … of another working tree: and which
  std::string path;   ///< of the file, from the top of the repository; in a working tree, of its shrub
  formats::Vref vref;
  /// For messages.
  [[nodiscard]] std::string place() const;
};

/// Of each working tree of the repository the index counts, and the vrefs that lie in it. Of one that is
/// absent, as its disk may be, the index, HEAD and refs do; if it is locked that is refused.
///
/// Calls `visit` for each different vref of a shrub, or of a directory of one: each text once, wherever it is
/// found first. Of a whole shrub in a git repository these are the vrefs of all shrubs of that repository, so
/// that one that was moved is found where it was, and what is named like a vref, reads as one and lies in no
/// shrub; of a directory those below the same path. Symlinks are no vrefs.
///
/// Whoever deletes what is not reachable relies on this: throws refused for a vref that cannot be read, a
/// commit, tree or file that the repository should have and has not, and a shallow repository. Memory: 150
/// bytes for each different tree and vref.
///
/// `visited`, if given: what it has is passed over, and what is looked at gets into it.
void for_each_reached(const std::string& path, const ReachOptions& options,
                      const std::function<void(const ReachedVref&)>& visit, Visited* visited = nullptr);
/// Where the directory of a shrub lies in its repository, as paths of vrefs begin; empty if that is all of
/// it, or it lies in none.
[[nodiscard]] std::string place_in_repository(const std::string& root);
/// The same of all shrubs of a repository, by its git directory.
void for_each_reached_of_repository(const std::string& common, const ReachOptions& options,
                                    const std::function<void(const ReachedVref&)>& visit,
                                    Visited* visited = nullptr);

}  // namespace shrub
