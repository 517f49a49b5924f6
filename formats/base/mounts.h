// The table of mounts, as the kernel lists it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace base {

/// One line of /proc/self/mountinfo (proc(5)). Paths are decoded.
struct MountRow {
  std::uint64_t id = 0;      ///< of the mount, as statx() names it; used again after an unmount
  std::uint64_t parent = 0;  ///< id of the mount it is mounted in
  dev_t device = 0;          ///< of the superblock; what stat() says of files may differ (btrfs, overlay)
  std::string root;          ///< the directory of the file system that is mounted …
  std::string point;         ///< … and where
  std::string type;          ///< ext4, fuse.sshfs, …
  std::string source;        ///< a device node, host:/path, or any word
  std::vector<std::string>
      super;  ///< options of the superblock: a read-only bind mount of a writable one says rw
};

/// `\040` and the like, decoded.
[[nodiscard]] std::string decode_mount_text(std::string_view text);

/// nullopt for a line that is none.
[[nodiscard]] std::optional<MountRow> parse_mount_row(std::string_view line);

/// All mounts that this process can see; empty without /proc.
[[nodiscard]] std::vector<MountRow> read_mounts();

/// The mount through which the open file `fd` was reached; O_PATH is enough. nullopt if the kernel does not
/// say.
[[nodiscard]] std::optional<std::uint64_t> find_mount_id(int fd);
/// The same by a number that is never given again; 0 if the kernel has none (before Linux 6.8).
[[nodiscard]] std::uint64_t find_unique_mount_id(int fd);

}  // namespace base
