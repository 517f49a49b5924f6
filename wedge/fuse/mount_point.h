// Places where something is mounted. A path is no mount: what is mounted there by now may be somebody else's.
// So mounts are taken away by their ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace wedge {

/// The id of the mount that a path leads to, the last of several at one place.
[[nodiscard]] std::optional<std::uint64_t> find_mount_at(const std::string& path);

/// Whether that mount is still there, covered by another or not.
[[nodiscard]] bool is_mounted(std::uint64_t id);

/// Unmounts the mount `id` if it is still what `path` leads to and nothing is mounted in it; open files of it
/// go on. Else, or if it may not, false.
bool unmount(const std::string& path, std::uint64_t id);

/// Takes away what a process of ours that was killed left at `path`. Throws refused if what is dead there is
/// not ours.
void replace_dead_mount(const std::string& path);

/// Throws refused if something is mounted at `path` already, or the directory is not empty: it would be
/// hidden.
void require_free_mount_point(const std::string& path);

}  // namespace wedge
