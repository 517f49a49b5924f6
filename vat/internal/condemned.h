// Packs that are to go. docs/design.md ("Taking away")
//
// The mark of one is an empty file, cache/condemned/<pack>.<seconds since 1970>, and .dead if no root needs
// it: it takes no block of a full disk, unless the directory has to grow, and whoever lists that has read
// all. It is not synced: what a crash takes away is condemned again, later.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "formats/base/unique_fd.h"

namespace vat::internal {

struct Mark {
  std::int64_t since = 0;  ///< seconds since 1970
  bool is_dead = false;    ///< no root needs what only it has; else all of it is elsewhere
};

/// By file name of the pack. One that says nothing, that is of the future, older than its pack or older than
/// this program, counts from `now`: waiting longer is never wrong. `vat`: its directory.
[[nodiscard]] std::map<std::string, Mark> read_marks(int vat, std::int64_t now);

/// Held while a condemned pack is deleted, or made anew: each is done before the other begins. Dies with its
/// process; nobody holds it for longer than that takes.
class CondemnedLock {
 public:
  explicit CondemnedLock(int vat);

 private:
  base::UniqueFd file_;
};

/// Has marks that count from now say so.
void mend_marks(int vat, std::int64_t now);

/// Throws local.
void write_mark(int vat, const std::string& pack, const Mark& mark);
/// All of these packs.
void remove_marks(int vat, const std::set<std::string>& packs);
/// Any; or just that, which takes no look at the others.
[[nodiscard]] bool has_mark(int vat, const std::string& pack);
[[nodiscard]] bool has_mark(int vat, const std::string& pack, const Mark& mark);

}  // namespace vat::internal
