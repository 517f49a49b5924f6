#include "wedge/internal/place_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "formats/text/recipe.h"
#include "wedge/internal/move.h"

namespace wedge::internal {
namespace {

using formats::kHoleBlock;
using formats::Row;

constexpr const char* kAccessAcl = "system.posix_acl_access";

std::array<timespec, 2> times_of(const Row& row) {
  const timespec mtime{row.mtime.seconds, row.mtime.nanoseconds};
  return {mtime, mtime};
}

void write_at(int fd, std::uint64_t offset, base::Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      base::throw_errno("write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

bool is_zero(base::Bytes bytes) {
  static constexpr std::array<std::byte, kHoleBlock> kZeros{};
  return std::memcmp(bytes.data(), kZeros.data(), bytes.size()) == 0;
}

}  // namespace

std::uint32_t restored_mode(const Row& row, const Fidelity& fidelity) {
  std::uint32_t mode = row.mode & (fidelity.owners ? 07777U : 01777U);
  if (fidelity.shared) {
    if (row.type == Row::Type::directory) mode |= S_ISGID;
    return mode | (mode & S_IRWXU) >> 3;
  }
  const auto acl = fidelity.acls ? row.xattrs.end() : row.xattrs.find(kAccessAcl);
  if (acl == row.xattrs.end()) return mode;
  // With an access control list the group bits of the mode are its mask; without it they would let the group
  // do what the list let others do.
  auto entries = base::as_bytes(acl->second);
  constexpr std::size_t kHeader = 4, kEntry = 8;  // entry: tag, permissions, id; little-endian
  constexpr std::uint16_t kGroup = 4;
  for (entries = entries.subspan(std::min(kHeader, entries.size())); entries.size() >= kEntry;
       entries = entries.subspan(kEntry))
    if (base::load_le<std::uint16_t>(entries.data()) == kGroup)
      mode &= ~070U | (base::load_le<std::uint16_t>(entries.data() + 2) & 7U) << 3;
  return mode;
}

std::uint32_t mode_within_acl(std::uint32_t mode, const std::map<std::string, std::string>& xattrs) {
  const auto acl = xattrs.find(kAccessAcl);
  if (acl == xattrs.end()) return mode;
  constexpr std::size_t kHeader = 4, kEntry = 8;  // as in restored_mode()
  enum : std::uint16_t { kUser = 2, kGroupOwner = 4, kGroup = 8, kMask = 16, kOther = 32 };
  std::uint32_t mask = 7, group = 7, other = 7, named = 7;
  const auto for_each = [&](const auto& visit) {
    auto entries = base::as_bytes(acl->second);
    for (entries = entries.subspan(std::min(kHeader, entries.size())); entries.size() >= kEntry;
         entries = entries.subspan(kEntry))
      visit(base::load_le<std::uint16_t>(entries.data()),
            base::load_le<std::uint16_t>(entries.data() + 2) & 7U);
  };
  for_each([&](std::uint16_t tag, std::uint32_t allowed) {
    if (tag == kMask) mask = allowed;
    if (tag == kGroupOwner) group = allowed;
    if (tag == kOther) other = allowed;
    if (tag == kUser || tag == kGroup) named &= allowed;
  });
  named &= mask;
  return mode & (~077U | (group & mask & named) << 3 | (other & named));
}

std::vector<std::string> list_xattrs(int fd) {
  std::vector<std::string> found;
  const ssize_t size = ::flistxattr(fd, nullptr, 0);
  // EBADF: a handle that is a path only, of what has none
  if (size < 0 && errno != ENOTSUP && errno != ENOSYS && errno != EBADF)
    base::throw_errno("list extended attributes", errno);
  if (size <= 0) return found;
  std::string names(static_cast<std::size_t>(size), '\0');
  const ssize_t got = ::flistxattr(fd, names.data(), names.size());
  if (got < 0) base::throw_errno("list extended attributes", errno);
  names.resize(static_cast<std::size_t>(got));
  for (std::string_view rest = names; !rest.empty();) found.emplace_back(base::take_field(rest, '\0'));
  return found;
}

bool is_acl(const std::string& name) noexcept {
  return name == kAccessAcl || name == "system.posix_acl_default";
}

bool is_recorded_xattr(const std::string& name) {
  return name.starts_with("user.") || name == "security.capability" || is_acl(name);
}

bool is_restored_xattr(const std::string& name, const Fidelity& fidelity) {
  return name.starts_with("user.") || (is_acl(name) ? fidelity.acls : fidelity.owners);
}

bool is_left_out(const Row& row, const Fidelity& fidelity) noexcept {
  return row.type == Row::Type::fifo ? !fidelity.fifos : formats::is_special(row) && !fidelity.devices;
}

void count_skipped(const Row& row, const Fidelity& fidelity, WriteSummary& summary) {
  if (row.type == Row::Type::hard_link) return;
  const bool other_owner = row.uid != ::geteuid() || row.gid != ::getegid();
  const bool set_id = row.type != Row::Type::symlink && (row.mode & 06000) != 0;
  const bool capable = row.xattrs.contains("security.capability");
  if (!fidelity.owners && (other_owner || set_id || capable)) ++summary.skipped_owners;
  if (!fidelity.acls && std::any_of(row.xattrs.begin(), row.xattrs.end(),
                                    [](const auto& attribute) { return is_acl(attribute.first); }))
    ++summary.skipped_acls;
}

void for_each_run(std::uint64_t offset, base::Bytes bytes,
                  const std::function<void(std::uint64_t, base::Bytes, bool)>& on_run) {
  std::size_t begin = 0, at = 0;
  bool zero = false;
  const auto end_run = [&] {
    if (at > begin) on_run(offset + begin, bytes.subspan(begin, at - begin), zero);
    begin = at;
  };
  while (at < bytes.size()) {
    const auto count = std::min<std::size_t>(bytes.size() - at, kHoleBlock - (offset + at) % kHoleBlock);
    const bool block_is_zero = count == kHoleBlock && is_zero(bytes.subspan(at, count));
    if (block_is_zero != zero) end_run();
    zero = block_is_zero;
    at += count;
  }
  end_run();
}

void ContentWriter::write(base::Bytes bytes) {
  if (!sparse_) {
    write_at(fd_, offset_, bytes);
    offset_ += bytes.size();
    ends_in_hole_ = ends_in_hole_ && bytes.empty();
    return;
  }
  for_each_run(offset_, bytes, [&](std::uint64_t offset, base::Bytes run, bool zero) {
    ends_in_hole_ = zero;
    if (!zero) write_at(fd_, offset, run);
  });
  offset_ += bytes.size();
}

void ContentWriter::skip(std::uint64_t size) {
  offset_ += size;
  ends_in_hole_ = size > 0 || ends_in_hole_;
}

void ContentWriter::hole(std::uint64_t size) {
  if (sparse_) return skip(size);
  static constexpr std::array<std::byte, 65536> kZeros{};
  for (; size > 0; size -= std::min<std::uint64_t>(size, kZeros.size()))
    write({kZeros.data(), static_cast<std::size_t>(std::min<std::uint64_t>(size, kZeros.size()))});
}

void ContentWriter::finish() {
  if (ends_in_hole_ && ::ftruncate(fd_, static_cast<off_t>(offset_)) != 0) base::throw_errno("extend", errno);
}

namespace {

/// Whether a call that sets metadata failed because the file system has no such thing.
bool is_unsupported(int error) {
  return error == EPERM || error == EOPNOTSUPP || error == ENOSYS;
}

/// Whether an attribute could not be set although there is room: there are limits for one value and, on ext4
/// and btrfs, for all of a file.
bool is_too_large(int fd, int error) {
  if (error == E2BIG || error == ERANGE || error == ENAMETOOLONG) return true;
  struct statvfs room;
  return error == ENOSPC && ::fstatvfs(fd, &room) == 0 && room.f_bavail > 0;
}

/// A plain user who asks for owners is refused; a file system that has none loses them.
bool take_owner(int result) {
  if (result == 0) return true;
  if (::geteuid() != 0 || (!is_unsupported(errno) && errno != EINVAL))
    base::throw_errno("change owner", errno);
  return false;
}

bool take(int result, const char* what) {
  if (result == 0) return true;
  if (!is_unsupported(errno)) base::throw_errno(what, errno);
  return false;
}

/// Whether what lies there has the mode, time and owner of the row.
bool is_kept(const struct stat& info, const Row& row, const Fidelity& fidelity) {
  return info.st_mtim.tv_sec == row.mtime.seconds && info.st_mtim.tv_nsec == row.mtime.nanoseconds &&
         (S_ISLNK(info.st_mode) || (info.st_mode & 07777) == restored_mode(row, fidelity)) &&
         (!fidelity.owners || (info.st_uid == row.uid && info.st_gid == row.gid));
}

}  // namespace

Lost set_metadata(int fd, const Row& row, const Fidelity& fidelity) {
  Lost lost;
  if (fidelity.owners) (void)take_owner(::fchown(fd, row.uid, row.gid));
  for (const auto& [name, value] : row.xattrs) {
    if (!is_restored_xattr(name, fidelity)) continue;
    if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) == 0) continue;
    if (!is_unsupported(errno) && !is_too_large(fd, errno))
      base::throw_errno("extended attribute " + name, errno);
    ++lost.xattrs;
  }
  (void)take(::fchmod(fd, restored_mode(row, fidelity)), "change mode");
  (void)take(::futimens(fd, times_of(row).data()), "set time");
  struct stat info;
  if (::fstat(fd, &info) != 0) base::throw_errno("stat", errno);
  lost.other = !is_kept(info, row, fidelity);
  return lost;
}

void remove_other_xattrs(int fd, const Row& row, const Fidelity& fidelity) {
  for (const auto& name : list_xattrs(fd))
    if (is_recorded_xattr(name) && is_restored_xattr(name, fidelity) && !row.xattrs.contains(name) &&
        ::fremovexattr(fd, name.c_str()) != 0 && errno != EPERM && errno != ENODATA)
      base::throw_errno("extended attribute " + name, errno);
}

base::UniqueFd ensure_beneath(int top, const std::string& path) {
  try {
    return base::open_beneath(top, path, O_RDONLY | O_DIRECTORY);
  } catch (const base::Error& error) {
    if (error.category() != base::Category::not_found) throw;
  }
  const auto [parent_path, name] = formats::split_path(path);
  const auto parent = ensure_beneath(top, parent_path);
  // EEXIST: another worker was quicker. Anything but a directory is refused below.
  if (::mkdirat(parent.get(), name.c_str(), 0700) != 0 && errno != EEXIST)
    base::throw_errno("make directory", errno);
  return base::open_beneath(parent.get(), name, O_RDONLY | O_DIRECTORY);
}

namespace {

/// Owner, mode and time of what is neither file nor directory.
Lost set_plain_metadata(int parent, const std::string& name, const Row& row, const Fidelity& fidelity) {
  if (fidelity.owners)
    (void)take_owner(::fchownat(parent, name.c_str(), row.uid, row.gid, AT_SYMLINK_NOFOLLOW));
  if (row.type != Row::Type::symlink)
    (void)take(::fchmodat(parent, name.c_str(), restored_mode(row, fidelity), 0), "change mode");
  // ENOENT: SFTP sets times through links.
  if (::utimensat(parent, name.c_str(), times_of(row).data(), AT_SYMLINK_NOFOLLOW) != 0 &&
      !is_unsupported(errno) && errno != ENOENT)
    base::throw_errno("set time", errno);
  struct stat info;
  if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) base::throw_errno("stat", errno);
  return {0, !is_kept(info, row, fidelity)};
}

}  // namespace

Lost make_symlink(int parent, const std::string& name, const Row& row, const Fidelity& fidelity) {
  if (::symlinkat(row.target.c_str(), parent, name.c_str()) != 0) base::throw_errno("make symlink", errno);
  return set_plain_metadata(parent, name, row, fidelity);
}

Lost make_special(int parent, const std::string& name, const Row& row, const Fidelity& fidelity) {
  mode_t type = S_IFIFO;
  dev_t device = 0;
  if (row.type != Row::Type::fifo) {
    type = row.type == Row::Type::block_device ? S_IFBLK : S_IFCHR;
    std::string_view numbers = row.target;
    const auto first = base::parse_decimal(base::take_field(numbers, ':')).value_or(0);
    device = makedev(static_cast<unsigned>(first),
                     static_cast<unsigned>(base::parse_decimal(numbers).value_or(0)));
  }
  if (::mknodat(parent, name.c_str(), type | 0600, device) != 0)
    base::throw_errno("make special file", errno);
  return set_plain_metadata(parent, name, row, fidelity);
}

Lost make_link(int from_dir, const std::string& from, int to_dir, const std::string& to) {
  if (::linkat(from_dir, from.c_str(), to_dir, to.c_str(), 0) != 0) {
    if (!is_unsupported(errno) && errno != EMLINK && errno != EXDEV) base::throw_errno("link", errno);
    if (!copy_path(from_dir, from, to_dir, to)) base::throw_errno("link", ENOENT);
    return {0, true};
  }
  struct stat a, b;
  if (::fstatat(from_dir, from.c_str(), &a, AT_SYMLINK_NOFOLLOW) != 0 ||
      ::fstatat(to_dir, to.c_str(), &b, AT_SYMLINK_NOFOLLOW) != 0)
    base::throw_errno("stat", errno);
  return {0, a.st_ino != b.st_ino || a.st_dev != b.st_dev};  // some union file systems number paths
}

}  // namespace wedge::internal
