// Whether an entry still is what sync made of it, or already is what sync would make.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "vat/blob_source.h"
#include "wedge/comparison.h"
#include "wedge/internal/record.h"
#include "wedge/internal/wedge_dir.h"
#include "wedge/wedge.h"

namespace wedge::internal {

struct Survey {
  bool intact = false;                 ///< nothing differs but extra paths that move over, and times
  bool touched = false;                ///< some file has another time, but the content it had
  std::vector<Difference> in_the_way;  ///< what may not be lost
  std::vector<std::string> carried;    ///< extra paths that move over
};

/// Compares what lies at `path` with what `record` says was made. `source`, which may be nullptr, has the
/// recipe of an image whose content has no id: without it, and of qcow2 files, size and time stand for the
/// content of what the stat cache does not know.
[[nodiscard]] Survey survey(const WedgeDir& dir, const std::string& path, const Record& record,
                            const SyncOptions& options, vat::BlobSource* source);

/// Tells `note` how what lies at `path` differs from what `record` says was made; of times, and of extra
/// paths that programs leave, nothing.
void list_changes(const WedgeDir& dir, const std::string& path, const Record& record,
                  const SyncOptions& options, vat::BlobSource* source,
                  const std::function<void(const Difference&)>& note);

/// Whether what lies at `path`, which no sync made, already is what `root` says. What of it may not be lost
/// goes to `in_the_way`.
[[nodiscard]] bool is_adoptable(const WedgeDir& dir, vat::BlobSource& source, const std::string& path,
                                const EntryRoot& root, const SyncOptions& options,
                                std::vector<Difference>& in_the_way);

}  // namespace wedge::internal
