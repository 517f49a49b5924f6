// Who of several processes fetches a root, so that the others need not.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/base/unique_fd.h"

namespace vat::internal {

/// Locks on bytes of one file, which nobody reads or writes; they die with their process. One thread at a
/// time.
class Turns {
 public:
  /// `file`: open for writing.
  explicit Turns(base::UniqueFd file) : file_(std::move(file)) {}

  /// Returns when it is our turn to fetch `root`, or when whoever fetches it has got nothing for some seconds
  /// (`progress` gives the same number), or when `is_over`.
  void take(const base::ObjectId& root, const std::function<std::uint64_t()>& progress,
            const std::function<bool()>& is_over);
  /// Whether somebody waits for one of ours.
  [[nodiscard]] bool is_awaited() const;
  /// What we fetched can be found by others now.
  void release();

 private:
  base::UniqueFd file_;
  std::vector<std::uint64_t> ours_;
};

}  // namespace vat::internal
