// Says that somebody is at work on a vat, so that nothing is deleted that they may rely on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "formats/base/unique_fd.h"
#include "vat/vat.h"

namespace vat {

/// A file in local/leases, locked as long as this lives: it goes with its process. Packs that are condemned
/// while it is held are not deleted before it is over. Who may not write to the vat holds nothing.
class Lease {
 public:
  /// Who adds has to have one, where the vat can be written: `adds`; then throws local if that fails.
  explicit Lease(Vat& vat, bool adds = false);
  ~Lease();
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&&) = delete;

 private:
  base::UniqueFd directory_, file_;
  std::string name_;
};

namespace internal {
/// When the oldest lease that is held was taken, seconds since 1970; nullopt: none is. Removes those whose
/// process is gone. `vat`: its directory.
[[nodiscard]] std::optional<std::int64_t> find_oldest_lease(int vat);
}  // namespace internal

}  // namespace vat
