// Which file systems' inode numbers and change times tell one content from another, and what to call such a
// file system, so that what was learned of a file holds until the file changes. docs/design.md, "Stat cache".
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/mounts.h"

namespace base {

/// A directory and a name in it, or, with an empty name, the open file `directory` itself.
struct FileAt {
  int directory;
  const char* name = "";
};

/// What is known of the file system of some file.
struct FileSystem {
  std::uint64_t name =
      0;  ///< tells it from all others, now and after a reboot; 0: its times vouch for nothing
  bool is_trusted = false;  ///< vouched for on the user's word alone
  std::string type;         ///< as the table of mounts says
  std::string point;        ///< where it is mounted
  std::string why;          ///< its times vouch for nothing
};

/// Judges file systems, each once. A judgement holds for the run of a program: the table of mounts is read
/// once.
///
///     FileSystems systems;
///     const auto& system = systems.look_at(info.st_dev, {parent, "file"});
///     if (system.name != 0) …  // (system.name, info.st_ino, size, times) stands for the content
///
/// Vouched for are ext2, ext3, ext4, xfs, btrfs, f2fs, zfs and tmpfs if their superblock can be written, and
/// an overlayfs whose layers all lie on one of them, at paths that still lead to them, and keep no data apart
/// from its metadata (metacopy). Not so images (squashfs, erofs, ISO 9660), FUSE, network and FAT file
/// systems: they number anew at each mount, or keep times that somebody made up.
///
/// The name is made of the UUID, and of the partition or volume. On devices that can come to hold another
/// image with the same UUID and times (all but built-in disks) it also is of the boot and the disk sequence
/// number, which changes with each image.
///
/// One thread at a time. Throws nothing but bad_alloc: what cannot be looked at is not vouched for.
class FileSystems {
 public:
  /// `trusted`: paths whose file systems, and those mounted below, are vouched for because the user says so.
  explicit FileSystems(std::vector<std::string> trusted = {}) : trusted_(std::move(trusted)) {}

  /// The file system of a file that stat() says is on `device`. The reference holds as long as this object.
  const FileSystem& look_at(dev_t device, const FileAt& where);

 private:
  void read_table();
  [[nodiscard]] FileSystem judge(int fd, int depth);
  [[nodiscard]] FileSystem judge_itself(int fd, int depth);
  [[nodiscard]] FileSystem judge_overlay(const MountRow& row, FileSystem system, int depth);
  [[nodiscard]] bool is_trusted(const MountRow& row) const;

  std::vector<std::string> trusted_;
  bool table_read_ = false;
  std::vector<MountRow> mounts_;
  std::vector<std::uint64_t> trusted_mounts_;
  std::vector<std::pair<dev_t, std::unique_ptr<const FileSystem>>> known_;  ///< few
};

}  // namespace base
