// The last steps of a sync: what was made becomes the entry. docs/formats/wedge-state.md
#pragma once

#include <sys/stat.h>

#include <map>
#include <string>
#include <vector>

#include "formats/base/error.h"
#include "wedge/internal/place_file.h"
#include "wedge/internal/record.h"
#include "wedge/internal/wedge_dir.h"

namespace wedge::internal {

/// In `work`: the link to the file that changes in place, which keeps its inode's number taken.
inline constexpr const char* kPinned = "entry";

/// Sets what `top` says on the directory `path`.
Lost set_top(int parent, const std::string& path, const formats::Row& top, const Fidelity& fidelity);

/// Puts "new" of `work` where `name` of `parent` is, which `there` says exists, and that into "new" or "old".
void swap_in(int work, int parent, const std::string& name, bool there);

/// After the exchange: finishes the top of the new entry, keeps the previous state under old/, makes the
/// record the current one. May be interrupted and run again at any point: `again`. Returns what was left
/// as it is because it is no longer what sync made.
[[nodiscard]] std::vector<std::string> settle(const WedgeDir& dir, const Record& made, bool again);

/// Whether a sync was ended while it changed the entry in place.
[[nodiscard]] bool is_unfinished(const WedgeDir& dir, const std::string& path, const struct stat& there);

/// Finishes or forgets what a killed sync left. An entry whose top is the one announced was exchanged
/// already; one that is gone while its old state lies in the workspace was caught between two renames and
/// is put back; one whose old state was being moved by parts gets its new one. Returns the entries whose
/// interrupted change could not be finished, and why.
[[nodiscard]] std::map<std::string, base::Error> recover(const WedgeDir& dir);

}  // namespace wedge::internal
