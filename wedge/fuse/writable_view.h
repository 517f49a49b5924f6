// A read-only mount as a directory that can be written: overlayfs above it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "wedge/fuse/mount_point.h"

namespace wedge {

/// What is written is kept in a directory of the user's, and is there again the next time. Errors: local,
/// with a hint, if the kernel does not allow it: that takes root, or a user namespace, and a directory on a
/// file system that overlayfs can write to.
class WritableView {
 public:
  /// Makes `kept` if there is nothing, and in it: `lower`, where the read-only tree is to be mounted, `upper`
  /// and `work`. What a process that was killed has left at `directory` and in `kept` is unmounted. Throws
  /// busy if it is in use. `is_private`: nobody else may look in.
  WritableView(const std::string& kept, const std::string& directory, bool is_private);
  /// Unmounts, whoever still uses it, unless somebody mounted something in it or over it.
  ~WritableView();
  WritableView(const WritableView&) = delete;
  WritableView& operator=(const WritableView&) = delete;

  [[nodiscard]] std::string lower() const { return kept_ + "/lower"; }
  /// Once something that answers is mounted at lower().
  void mount();
  /// Returns when it has been unmounted, or `is_over` says so, which is asked now and then.
  void wait(const std::function<bool()>& is_over) const;

 private:
  [[nodiscard]] std::optional<MountId> find_view() const;
  const std::string kept_, directory_;
  std::optional<MountId> id_;  ///< of what mount() made
};

}  // namespace wedge
