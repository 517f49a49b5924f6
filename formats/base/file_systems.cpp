// A judgement goes: the mount by its id (a path may lead elsewhere by now), the kind by statfs(), whether it
// can change by the options of the superblock, its UUID, and what kind of device lies below.
#include "formats/base/file_systems.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "formats/base/endian.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "formats/base/unique_fd.h"

namespace base {
namespace {

namespace fs = std::filesystem;

constexpr unsigned long kZfsMagic = 0x2fc12fc1;  // not in <linux/magic.h>
constexpr int kMaxDepth = 4;                     ///< of overlays on overlays, and of devices on devices

/// As <linux/fs.h> of Linux 6.9 has it.
struct Uuid {
  std::uint8_t size = 0;
  std::uint8_t bytes[16] = {};
};
constexpr unsigned long kGetUuid = _IOR(0x15, 0, Uuid);
/// As xfs_fs.h has it, in all versions: the UUID lies at byte 64 of 112.
struct XfsGeometry {
  std::uint8_t before[64] = {};
  std::uint8_t uuid[16] = {};
  std::uint8_t after[32] = {};
};
constexpr unsigned long kXfsGeometry = _IOR('X', 100, XfsGeometry);

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// 64 bits of a hash of these words, never 0.
std::uint64_t name_of(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += std::to_string(word.size()) + ":" + word;
  const auto id = hash_blob(ObjectFormat::sha256, as_bytes(text));
  return std::max<std::uint64_t>(1, load_le<std::uint64_t>(id.raw().data()));
}

std::string to_hex(const std::uint8_t (&bytes)[16]) {
  std::string text;
  for (const unsigned byte : bytes) text += std::to_string(byte) + ".";
  return text;
}

/// The UUID of xfs and f2fs, whose statfs() tells the device's number instead; empty if it is not told.
std::string find_uuid(int path_fd) {
  // An O_PATH descriptor knows no ioctl; the directory or file may be unreadable for this user.
  const UniqueFd fd(
      ::open(("/proc/self/fd/" + std::to_string(path_fd)).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (fd.get() < 0) return {};
  if (Uuid uuid; ::ioctl(fd.get(), kGetUuid, &uuid) == 0 && uuid.size == sizeof uuid.bytes)
    return to_hex(uuid.bytes);
  if (XfsGeometry geometry; ::ioctl(fd.get(), kXfsGeometry, &geometry) == 0) return to_hex(geometry.uuid);
  return {};
}

/// Adds to `slots` what tells the images that the device may hold one after the other: nothing for a built-in
/// disk. False if that cannot be told.
bool describe_device(const fs::path& node, std::vector<std::string>& slots, int depth = 0) {
  std::error_code failure;
  auto disk = fs::canonical(node, failure);
  if (failure || depth > kMaxDepth) return false;
  // Partitions of one disk, and volumes of one group, may hold images with one UUID.
  if (fs::exists(disk / "partition", failure)) {
    slots.push_back("partition " + first_line(disk / "partition"));
    disk = disk.parent_path();
  }
  if (const auto volume = first_line(disk / "dm/uuid"); !volume.empty()) slots.push_back(volume);
  // dm, md and bcache are what they stand on.
  bool is_stacked = false;
  for (const auto& slave : fs::directory_iterator(disk / "slaves", failure)) {
    is_stacked = true;
    if (!describe_device(slave.path(), slots, depth + 1)) return false;
  }
  if (is_stacked) return true;
  const auto name = disk.filename().string();
  const bool is_card = name.starts_with("mmcblk") && first_line(disk / "device/type") != "MMC";
  constexpr const char* kBuiltIn[] = {"sd", "hd", "vd", "xvd", "nvme", "mmcblk", "dasd", "pmem"};
  if (std::any_of(std::begin(kBuiltIn), std::end(kBuiltIn),
                  [&](const char* prefix) { return name.starts_with(prefix); }) &&
      !is_card && first_line(disk / "removable") == "0" && disk.string().find("/usb") == std::string::npos)
    return true;
  // The server behind a network block device may change without a new number.
  const auto sequence = first_line(disk / "diskseq");
  const auto boot = first_line("/proc/sys/kernel/random/boot_id");
  if (name.starts_with("nbd") || sequence.empty() || boot.empty()) return false;
  slots.insert(slots.end(), {boot, sequence});
  return true;
}

fs::path node_of(dev_t device) {
  return "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
}

/// All devices of the btrfs file system that has `source` among them.
bool describe_btrfs(const std::string& source, std::vector<std::string>& slots) {
  struct stat info {};
  if (::stat(source.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) return false;
  std::error_code failure;
  const auto node = fs::canonical(node_of(info.st_rdev), failure);
  if (failure) return false;
  for (const auto& system : fs::directory_iterator("/sys/fs/btrfs", failure)) {
    if (!fs::exists(system.path() / "devices" / node.filename(), failure)) continue;
    for (const auto& device : fs::directory_iterator(system.path() / "devices", failure))
      if (!describe_device(device.path(), slots)) return false;
    return !failure;
  }
  return false;
}

std::string real_path(const std::string& path) {
  char found[PATH_MAX];
  return ::realpath(path.c_str(), found) != nullptr ? found : std::string();
}

bool is_at_or_below(const std::string& path, const std::string& top) {
  return path == top || top == "/" || path.starts_with(top + "/");
}

/// Where the layers of an overlay lie; the upper one comes first. Empty if that cannot be told.
std::vector<std::string> layers_of(const MountRow& row) {
  std::vector<std::string> upper, lower;
  for (const auto& option : row.super) {
    std::string_view value = option;
    const auto key = take_field(value, '=');
    // The times of a file of metadata say nothing of the file that has the data.
    if (key == "datadir+" || option == "metacopy=on" || value.find("::") != std::string_view::npos) return {};
    if (key == "upperdir") upper.emplace_back(value);
    if (key == "lowerdir+") lower.emplace_back(value);
    if (key != "lowerdir") continue;
    std::string path;
    for (std::size_t at = 0; at <= value.size(); ++at) {
      if (at + 1 < value.size() && value[at] == '\\') {
        path += value[++at];
      } else if (at < value.size() && value[at] != ':') {
        path += value[at];
      } else if (!path.empty()) {
        lower.push_back(std::exchange(path, {}));
      }
    }
  }
  if (lower.empty()) return {};
  upper.insert(upper.end(), lower.begin(), lower.end());
  // A relative path is one of whoever mounted it.
  if (std::any_of(upper.begin(), upper.end(), [](const auto& path) { return !path.starts_with('/'); }))
    return {};
  return upper;
}

/// Whether what lies at the top of an overlay comes from these layers: a path may lead elsewhere by now,
/// while the overlay still has what was there.
bool shows(const std::string& point, const std::vector<UniqueFd>& layers) {
  const UniqueFd top(::open(point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (top.get() < 0) return false;
  const std::unique_ptr<DIR, int (*)(DIR*)> names(::fdopendir(::dup(top.get())), ::closedir);
  if (names == nullptr) return false;
  constexpr int kEnough = 64;
  int looked_at = 0;
  for (const dirent* entry = ::readdir(names.get()); entry != nullptr && looked_at < kEnough;
       entry = ::readdir(names.get())) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    ++looked_at;
    struct stat seen {
    }, real{};
    if (::fstatat(top.get(), entry->d_name, &seen, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const auto layer = std::find_if(layers.begin(), layers.end(), [&](const auto& one) {
      return ::fstatat(one.get(), entry->d_name, &real, AT_SYMLINK_NOFOLLOW) == 0;
    });
    if (layer == layers.end() || (seen.st_mode & S_IFMT) != (real.st_mode & S_IFMT)) return false;
    if (!S_ISDIR(seen.st_mode) &&
        (seen.st_ino != real.st_ino || seen.st_size != real.st_size ||
         seen.st_ctim.tv_sec != real.st_ctim.tv_sec || seen.st_ctim.tv_nsec != real.st_ctim.tv_nsec))
      return false;
  }
  return true;
}

}  // namespace

void FileSystems::read_table() {
  if (std::exchange(table_read_, true)) return;
  mounts_ = read_mounts();
  for (auto& path : trusted_) {
    const UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    const auto id = fd.get() >= 0 ? find_mount_id(fd.get()) : std::nullopt;
    if (id) trusted_mounts_.push_back(*id);
    path = real_path(path);
  }
}

bool FileSystems::is_trusted(const MountRow& row) const {
  return std::find(trusted_mounts_.begin(), trusted_mounts_.end(), row.id) != trusted_mounts_.end() ||
         std::any_of(trusted_.begin(), trusted_.end(), [&](const std::string& path) {
           return !path.empty() && is_at_or_below(row.point, path);
         });
}

const FileSystem& FileSystems::look_at(dev_t device, const FileAt& where) {
  for (const auto& [known, system] : known_)
    if (known == device) return *system;
  read_table();
  struct stat info {};
  const bool itself = *where.name == '\0' || (::fstat(where.directory, &info) == 0 && info.st_dev == device);
  const UniqueFd opened(itself ? -1 : ::openat(where.directory, where.name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  const int fd = itself ? where.directory : opened.get();
  FileSystem system;
  if (fd < 0 || ::fstat(fd, &info) != 0 || info.st_dev != device)
    system.why = "it cannot be looked at";
  else
    try {
      system = judge(fd, 0);
    } catch (const fs::filesystem_error&) {  // sysfs changes while it is read
      system.why = "its device cannot be looked at";
    }
  known_.emplace_back(device, std::make_unique<const FileSystem>(std::move(system)));
  return *known_.back().second;
}

FileSystem FileSystems::judge(int fd, int depth) {
  auto system = judge_itself(fd, depth);
  const auto id = find_mount_id(fd);
  const auto row =
      std::find_if(mounts_.begin(), mounts_.end(), [&](const auto& mount) { return id == mount.id; });
  if (!id || row == mounts_.end() || !is_trusted(*row)) return system;
  // The user's word is for what cannot be told otherwise.
  system.is_trusted = true;
  if (system.name == 0) system.name = name_of({"trusted", row->type, row->source, row->root, row->point});
  return system;
}

FileSystem FileSystems::judge_itself(int fd, int depth) {
  FileSystem system;
  const auto id = find_mount_id(fd);
  const auto row =
      std::find_if(mounts_.begin(), mounts_.end(), [&](const auto& mount) { return id == mount.id; });
  struct statfs kind {};
  struct stat info {};
  if (!id || row == mounts_.end() || ::fstatfs(fd, &kind) != 0 || ::fstat(fd, &info) != 0) {
    system.why = "its mount cannot be looked at";
    return system;
  }
  system.type = row->type;
  system.point = row->point;
  if (std::find(row->super.begin(), row->super.end(), "ro") != row->super.end()) {
    system.why = "it is read-only, so no clock of this machine stamps its files";
    return system;
  }
  const auto refused = [&](const char* why) {
    system.why = why;
    return system;
  };
  std::uint64_t number;
  static_assert(sizeof kind.f_fsid == sizeof number);
  std::memcpy(&number, &kind.f_fsid, sizeof number);
  auto uuid = number == 0 ? std::string() : std::to_string(number);
  std::vector<std::string> slots;
  const char* kNoDevice = "it is not known what its device holds";
  switch (static_cast<unsigned long>(kind.f_type)) {
    case OVERLAYFS_SUPER_MAGIC:
      return judge_overlay(*row, std::move(system), depth);
    case EXT4_SUPER_MAGIC:
      if (!describe_device(node_of(info.st_dev), slots)) return refused(kNoDevice);
      break;
    case XFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
      uuid = find_uuid(fd);
      if (!describe_device(node_of(info.st_dev), slots)) return refused(kNoDevice);
      break;
    case BTRFS_SUPER_MAGIC:  // the number is made of the UUID and the subvolume's
      if (!describe_btrfs(row->source, slots)) return refused(kNoDevice);
      break;
    case TMPFS_MAGIC:  // a random UUID for each
    case kZfsMagic:
      break;
    default:
      return refused("its inode numbers and times are not known to tell one content from another");
  }
  if (uuid.empty()) return refused("it tells no UUID");
  slots.insert(slots.begin(), {row->type, uuid});
  system.name = name_of(slots);
  return system;
}

FileSystem FileSystems::judge_overlay(const MountRow& row, FileSystem system, int depth) {
  const auto layers = layers_of(row);
  std::vector<std::string> words{"overlay"};
  std::vector<UniqueFd> opened;
  std::uint64_t below = 0;
  for (const auto& path : layers) {
    const UniqueFd layer(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    struct stat info {};
    const auto found = layer.get() >= 0 && ::fstat(layer.get(), &info) == 0 && depth < kMaxDepth
                           ? judge(layer.get(), depth + 1)
                           : FileSystem();
    if (found.name == 0) {
      system.why = "its layers cannot be looked at, or are of no such kind";
      return system;
    }
    // With layers on several file systems, inode numbers are of the mount, not of the files.
    if (below != 0 && below != found.name) {
      system.why = "its layers are on several file systems";
      return system;
    }
    below = found.name;
    words.insert(words.end(), {std::to_string(found.name), std::to_string(info.st_ino)});
    opened.push_back(UniqueFd(::dup(layer.get())));
  }
  if (layers.empty() || !shows(row.point, opened))
    system.why = "its layers cannot be looked at";
  else
    system.name = name_of(words);
  return system;
}

}  // namespace base
