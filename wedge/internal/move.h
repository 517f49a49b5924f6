// Moving and copying single paths of a wedge, also where a file system does not let them be renamed or
// linked.
#pragma once

#include <string>

namespace wedge::internal {

/// Moves `from` of `from_dir` to `to` of `to_dir`, both on one file system: by one rename, or by parts where
/// that cannot be. overlayfs renames no directory of a lower layer, and a file system with project quotas
/// nothing into a directory of another project (EXDEV). Then a directory is made again, and what it holds is
/// moved one by one; what cannot be renamed at all is copied and removed. Such a move may be interrupted and
/// run again. What is in the way at `to` stays: what would take its place gets a free name beside it. Throws
/// local; also if something is mounted in the directory.
void move_path(int from_dir, const std::string& from, int to_dir, const std::string& to);

/// Copies a path that is no directory to a free name: content and holes, and of owner, attributes, mode and
/// time what the file system and this user's rights allow. False if nothing is at `from`. Throws local.
bool copy_path(int from_dir, const std::string& from, int to_dir, const std::string& to);

/// Gives the open directory or file `to` the owner, attributes, mode and times of `from`, as far as the file
/// system and this user's rights allow.
void copy_metadata(int from, int to);

}  // namespace wedge::internal
