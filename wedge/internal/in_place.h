// Changing a tree where it lies: what is new was staged beside it and is moved in path by path, and what it
// replaces is moved out, by steps that may be interrupted and run again. docs/formats/wedge-state.md, "In
// place"
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "formats/text/manifest.h"
#include "wedge/comparison.h"
#include "wedge/stat_cache.h"
#include "wedge/tree_writer.h"

namespace wedge::internal {

/// Says of each row of a tree that is to be, in order, how it stands to the rows of the tree as it is.
class RowChanges {
 public:
  /// `on_removed` is told, in order, the rows that the new tree does not have; may be empty.
  explicit RowChanges(NextRow before, std::function<void(const formats::Row&)> on_removed = {});

  enum class Change : std::uint8_t {
    none,
    metadata,  ///< of a directory that stays
    made       ///< it has to be made anew: it differs, or is a link to what does
  };
  [[nodiscard]] Change next(const formats::Row& after);
  /// The row that the path of the last one had.
  [[nodiscard]] const std::optional<formats::Row>& before() const noexcept { return before_; }
  /// After the last row.
  void finish();

 private:
  void advance();
  NextRow rows_;
  std::function<void(const formats::Row&)> on_removed_;
  formats::Row row_;
  bool have_ = false;
  std::optional<formats::Row> before_;
  std::unordered_set<std::string> made_;  ///< paths that are no directories
};

/// Makes the tree `top`, which is as the rows of `before` say, as those of `after` say. `work` has in "new"
/// what RowChanges calls made, at its path; gets in "old" what was replaced or removed, at its path. What is
/// no longer in "new" has been moved in by an earlier run. `before` reads from the first row each time it is
/// called. `cache` may be nullptr.
///
/// What lies where something is to be moved in or out but is not what `before` has there is left alone, and
/// so is what would have taken its place. Returns the paths of these.
std::vector<std::string> change_tree(int top, int work, const std::function<NextRow()>& before,
                                     const NextRow& after, const Fidelity& fidelity, StatCache* cache);

}  // namespace wedge::internal
