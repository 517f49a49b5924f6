#include "wedge/internal/move.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/mounts.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/place_file.h"

namespace wedge::internal {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kBuffer = std::size_t{1} << 20;  ///< bytes

/// The data of a file between two offsets.
void copy_range(int from, int to, std::uint64_t begin, std::uint64_t end) {
  base::Buffer buffer(kBuffer);
  for (auto at = begin; at < end;) {
    const auto part = base::MutableBytes(buffer).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(kBuffer, end - at)));
    const auto count = base::read_some_at(from, at, part);
    if (count == 0) return;  // it was cut off meanwhile
    base::write_at(to, at, part.first(count));
    at += count;
  }
}

void copy_content(int from, int to) {
  if (::ioctl(to, FICLONE, from) == 0) return;
  const auto size = base::file_size(from);
  for (std::uint64_t at = 0; at < size;) {
    const off_t data = ::lseek(from, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // a hole up to the end
    const off_t hole = data < 0 ? -1 : ::lseek(from, data, SEEK_HOLE);
    const auto begin = data < 0 ? at : static_cast<std::uint64_t>(data);
    const auto end = hole < 0 ? size : static_cast<std::uint64_t>(hole);
    copy_range(from, to, begin, end);
    at = end;
  }
  if (::ftruncate(to, static_cast<off_t>(size)) != 0) base::throw_errno("extend", errno);
}

/// Owner, mode and times of what is neither file nor directory, as far as that can be.
void copy_plain_metadata(int dir, const std::string& name, const struct stat& info) {
  const timespec times[] = {info.st_atim, info.st_mtim};
  (void)::fchownat(dir, name.c_str(), info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW);
  if (!S_ISLNK(info.st_mode)) (void)::fchmodat(dir, name.c_str(), info.st_mode & 07777, 0);
  (void)::utimensat(dir, name.c_str(), times, AT_SYMLINK_NOFOLLOW);
}

/// `mode`: of the directory before this user was let in.
void move_parts(int from_dir, const std::string& from, int to_dir, const std::string& to, mode_t mode) {
  const auto source = base::open_at(from_dir, from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (base::find_mount_id(source.get()) != base::find_mount_id(from_dir))
    throw Error(Category::local, "something is mounted there",
                "unmount it, or mount it outside of the wedge");
  // An earlier run may have made it.
  const auto target = base::ensure_directory(to_dir, to, 0700);
  for (const auto& name : base::list_directory(source.get()))
    base::named(name, [&, &child = name] {
      const auto info = base::find_stat(source.get(), child);
      const bool is_directory = info && S_ISDIR(info->st_mode);
      const auto there = base::find_stat(target.get(), child);
      const bool in_the_way = there && !(is_directory && S_ISDIR(there->st_mode));
      move_path(source.get(), child, target.get(), in_the_way ? child + "-" + base::random_name() : child);
    });
  copy_metadata(source.get(), target.get());
  (void)::fchmod(target.get(), mode & 07777);
  if (::unlinkat(from_dir, from.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
    base::throw_errno("remove " + from, errno);
}

}  // namespace

void copy_metadata(int from, int to) {
  struct stat info, made;
  if (::fstat(from, &info) != 0) base::throw_errno("stat", errno);
  if (::fchown(to, info.st_uid, info.st_gid) != 0 && ::fchown(to, static_cast<uid_t>(-1), info.st_gid) != 0)
    errno = 0;  // looked at below
  if (::fstat(to, &made) != 0) base::throw_errno("stat", errno);
  for (const auto& name : list_xattrs(from)) {
    std::string value(XATTR_SIZE_MAX, '\0');
    const ssize_t size = ::fgetxattr(from, name.c_str(), value.data(), value.size());
    if (size >= 0) (void)::fsetxattr(to, name.c_str(), value.data(), static_cast<std::size_t>(size), 0);
  }
  auto mode = info.st_mode & 07777;
  if (made.st_uid != info.st_uid) mode &= ~static_cast<mode_t>(S_ISUID);  // it would be somebody else's
  if (made.st_gid != info.st_gid) mode &= ~static_cast<mode_t>(S_ISGID);
  (void)::fchmod(to, mode);
  const timespec times[] = {info.st_atim, info.st_mtim};
  (void)::futimens(to, times);
}

bool copy_path(int from_dir, const std::string& from, int to_dir, const std::string& to) {
  const auto info = base::find_stat(from_dir, from);
  if (!info) return false;
  if (S_ISREG(info->st_mode)) {
    const auto source = base::open_at(from_dir, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    auto target = base::open_at(to_dir, to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    copy_content(source.get(), target.get());
    copy_metadata(source.get(), target.get());
    target.close();
    return true;
  }
  if (S_ISLNK(info->st_mode)) {
    std::string target(PATH_MAX, '\0');
    const ssize_t size = ::readlinkat(from_dir, from.c_str(), target.data(), target.size());
    if (size < 0) base::throw_errno(from, errno);
    target.resize(static_cast<std::size_t>(size));
    if (::symlinkat(target.c_str(), to_dir, to.c_str()) != 0) base::throw_errno(to, errno);
  } else if (::mknodat(to_dir, to.c_str(), (info->st_mode & S_IFMT) | 0600, info->st_rdev) != 0) {
    base::throw_errno(to, errno);
  }
  copy_plain_metadata(to_dir, to, *info);
  return true;
}

void move_path(int from_dir, const std::string& from, int to_dir, const std::string& to) {
  const auto info = base::find_stat(from_dir, from);
  const WritableTop writable(from_dir, from);
  if (::renameat(from_dir, from.c_str(), to_dir, to.c_str()) == 0) return;
  // ENOTEMPTY, EEXIST: an earlier run has moved a part of the directory.
  const bool parts =
      info && S_ISDIR(info->st_mode) && (errno == EXDEV || errno == ENOTEMPTY || errno == EEXIST);
  if (parts) return move_parts(from_dir, from, to_dir, to, info->st_mode);
  if (!info || errno != EXDEV) base::throw_errno(from, errno);
  (void)copy_path(from_dir, from, to_dir, to);
  if (::unlinkat(from_dir, from.c_str(), 0) != 0) base::throw_errno("remove " + from, errno);
}

}  // namespace wedge::internal
