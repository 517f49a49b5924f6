// Places where something is mounted. A path is no mount: what is mounted there by now may be somebody else's.
// So mounts are taken away by their ids.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace wedge {

/// A mount. The kernel gives ids again once a mount is gone; its superblock's device and type tell whether it
/// still is the same.
struct MountId {
  std::uint64_t id = 0;
  dev_t device = 0;
  std::string type;
  std::uint64_t unique = 0;  ///< never given again; 0: the kernel does not tell (before Linux 6.8)
  friend bool operator==(const MountId&, const MountId&) = default;
};

/// The mount that a path leads to, the last of several at one place.
[[nodiscard]] std::optional<MountId> find_mount_at(const std::string& path);

/// Whether that mount is still there, covered by another or not.
[[nodiscard]] bool is_mounted(const MountId& mount);

enum class Unmounted : std::uint8_t {
  done,
  other,   ///< the path leads to something else by now
  in_use,  ///< something is mounted in it
  denied   ///< this user may not
};
/// Unmounts a mount of ours if it still is what `path` leads to and nothing is mounted in it; open files of
/// it go on. What only fusermount3 may do for a plain user, it does.
Unmounted unmount(const std::string& path, const MountId& mount);

/// Takes away what a process of ours that was killed left at `path`. Throws refused if what is dead there is
/// not ours.
void replace_dead_mount(const std::string& path);

/// Throws refused if something is mounted at `path` already, or the directory is not empty: it would be
/// hidden.
void require_free_mount_point(const std::string& path);

}  // namespace wedge
