#include "formats/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "formats/base/object_id.h"

namespace base {
namespace {

int retrying_open(int dir, const char* path, int flags, unsigned mode) {
  int fd;
  do {
    fd = ::openat(dir, path, flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

int open_one_beneath(int dir, const std::string& path, int flags) {
  static_assert(sizeof(open_how) == 24);
  open_how how{};
  how.flags = static_cast<unsigned>(flags) | unsigned{O_CLOEXEC};
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  long fd;
  do {
    fd = ::syscall(SYS_openat2, dir, path.c_str(), &how, sizeof how);
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return static_cast<int>(fd);
}

UniqueFd open_stepwise(int dir, std::string_view path, int flags) {
  UniqueFd held;
  int at = dir;
  while (true) {
    const std::string name(take_field(path, '/'));
    const bool last = path.empty();
    if (name.empty() || name == "..")
      throw Error(Category::refused, "path component '" + name + "' may escape");
    const int fd = retrying_open(at, name.c_str(), (last ? flags : O_PATH | O_DIRECTORY) | O_NOFOLLOW, 0);
    if (fd < 0) {
      if (errno == ELOOP || (errno == ENOTDIR && !last))
        throw Error(Category::refused, "path component '" + name + "' is not a directory");
      throw_errno("open", errno);
    }
    held = UniqueFd(fd);
    at = fd;
    if (last) return held;
  }
}

/// throw_errno(), naming the file that `fd` is, if it is one.
[[noreturn]] void throw_errno_of(int fd, const std::string& what, int errno_value) {
  std::array<char, PATH_MAX> path;
  const auto size = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path.data(), path.size());
  const bool is_path = size > 0 && path[0] == '/';
  throw_errno((is_path ? std::string(path.data(), static_cast<std::size_t>(size)) + ": " : "") + what,
              errno_value);
}

/// After EAGAIN: somebody made the pipe or terminal non-blocking.
bool wait_until_ready(int fd, short events) {
  if (errno != EAGAIN) return false;
  pollfd waiting{fd, events, 0};
  return ::poll(&waiting, 1, -1) >= 0 || errno == EINTR;
}

/// All of a small regular file; `path` is for messages.
std::string read_opened(int fd, const std::string& path, std::size_t limit) {
  struct stat info;
  if (::fstat(fd, &info) != 0) throw_errno(path, errno);
  if (!S_ISREG(info.st_mode)) throw Error(Category::refused, path + ": not a regular file");
  // One byte more than the file has shows whether it grew; what it says of its size allocates no more than
  // the limit.
  std::string text(
      static_cast<std::size_t>(std::min<std::uint64_t>(limit, static_cast<std::uint64_t>(info.st_size))) + 1,
      '\0');
  text.resize(read_some(fd, {reinterpret_cast<std::byte*>(text.data()), text.size()}));
  if (text.size() > static_cast<std::uint64_t>(info.st_size) && text.size() <= limit)
    throw Error(Category::local, path + ": changed while it was read");
  if (text.size() > limit) throw Error(Category::refused, path + ": larger than " + human_size(limit));
  return text;
}

}  // namespace

std::string full_name(int dir, const std::string& name) {
  if (dir == AT_FDCWD || name.starts_with('/')) return name;
  std::array<char, 4096> path{};
  const auto size = ::readlink(("/proc/self/fd/" + std::to_string(dir)).c_str(), path.data(), path.size());
  if (size <= 0 || path[0] != '/' || static_cast<std::size_t>(size) == path.size()) return name;
  return std::string(path.data(), static_cast<std::size_t>(size)) + "/" + name;
}

UniqueFd open_at(int dir, const std::string& path, int flags, unsigned mode) {
  const int fd = retrying_open(dir, path.c_str(), flags, mode);
  if (fd < 0) {
    const int failure = errno;  // what is made is ours, and nobody knows where it lies
    throw_errno((flags & O_CREAT) != 0 ? full_name(dir, path) : path, failure);
  }
  return UniqueFd(fd);
}

std::optional<UniqueFd> find_open_at(int dir, const std::string& path, int flags) {
  const int fd = retrying_open(dir, path.c_str(), flags | O_NONBLOCK, 0);
  if (fd >= 0) return UniqueFd(fd);
  if (errno != ENOENT && errno != ENOTDIR) throw_errno(path, errno);
  return std::nullopt;
}

std::optional<UniqueFd> find_regular_at(int dir, const std::string& path) {
  auto file = find_open_at(dir, path, O_RDONLY);
  struct stat info;
  if (file && ::fstat(file->get(), &info) != 0) throw_errno_of(file->get(), "stat", errno);
  if (file && !S_ISREG(info.st_mode)) file.reset();
  return file;
}

std::optional<struct stat> find_stat(int dir, const std::string& path, bool follow) {
  struct stat info;
  if (::fstatat(dir, path.c_str(), &info, follow ? 0 : AT_SYMLINK_NOFOLLOW) == 0) return info;
  if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) throw_errno(path, errno);
  return std::nullopt;
}

UniqueFd open_beneath(int dir, std::string_view path, int flags) {
  if (path.size() < PATH_MAX - 1) {
    const int fd = open_one_beneath(dir, std::string(path), flags | O_NOFOLLOW);
    if (fd >= 0) return UniqueFd(fd);
    if (errno == ELOOP || errno == EXDEV)
      throw Error(Category::refused, std::string(path) + ": a symbolic link or '..' leads out of the way");
    if (errno == ENOTDIR)
      throw Error(Category::refused, std::string(path) + ": a component is not a directory");
    if (errno != ENOSYS && errno != EPERM && errno != ENAMETOOLONG) throw_errno(std::string(path), errno);
  }
  return named(path.substr(0, 200), [&] { return open_stepwise(dir, path, flags); });
}

UniqueFd open_directory(int dir, const std::string& path) {
  return open_at(dir, path, O_RDONLY | O_DIRECTORY);
}

UniqueFd ensure_directory(int dir, const std::string& name, unsigned mode) {
  if (::mkdirat(dir, name.c_str(), mode) == 0) {
    sync_directory(dir);
  } else if (const int failure = errno; failure != EEXIST) {
    throw_errno(full_name(dir, name), failure);
  }
  const int fd = retrying_open(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
    throw Error(Category::refused, full_name(dir, name) + ": is not a directory, or a symbolic link to one");
  if (fd < 0) {
    const int failure = errno;
    throw_errno(full_name(dir, name), failure);
  }
  return UniqueFd(fd);
}

namespace {

/// As find_open_at(), of what is ours, and nobody knows where it lies.
std::optional<UniqueFd> find_own(int dir, const std::string& name, int flags) {
  const int fd = retrying_open(dir, name.c_str(), flags | O_NONBLOCK, 0);
  if (fd >= 0) return UniqueFd(fd);
  const int failure = errno;
  if (failure != ENOENT && failure != ENOTDIR && failure != ELOOP) throw_errno(full_name(dir, name), failure);
  return std::nullopt;  // or something else is in the way, which whoever makes it says
}

}  // namespace

bool is_shared(int dir) {
  struct stat info;
  return ::fstat(dir, &info) == 0 && (info.st_mode & (S_ISGID | S_IWGRP)) == (S_ISGID | S_IWGRP);
}

void share(int fd) {
  struct stat info;
  if (::fstat(fd, &info) != 0) throw_errno("stat", errno);
  const auto mode = info.st_mode & 07777;
  const auto shared = mode | (mode & S_IRWXU) >> 3 | (S_ISDIR(info.st_mode) ? S_ISGID : 0U);
  if (shared == mode || ::fchmod(fd, shared) == 0) return;
  const int failure = errno;
  throw_errno(full_name(fd, ".") + ": change mode", failure);
}

UniqueFd ensure_directory_as_parent(int dir, const std::string& name, unsigned mode) {
  if (auto there = find_own(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)) return std::move(*there);
  auto made = ensure_directory(dir, name, mode);
  if (is_shared(dir)) share(made.get());
  return made;
}

UniqueFd open_as_parent(int dir, const std::string& name, int flags) {
  if ((flags & O_EXCL) == 0)
    if (auto there = find_own(dir, name, flags & ~O_CREAT)) return std::move(*there);
  auto file = open_at(dir, name, flags, 0600);
  if (is_shared(dir)) share(file.get());
  return file;
}

void make_directories(const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const auto prefix = path.substr(0, end);
    if (::mkdir(prefix.c_str(), 0777) == 0) {
      const auto slash = prefix.rfind('/');  // the new name lies in its parent
      sync_directory(
          open_directory(AT_FDCWD, slash == std::string::npos ? "." : prefix.substr(0, slash + 1)).get());
    } else {
      const int failure = errno;
      struct stat info;
      if (::stat(prefix.c_str(), &info) != 0) throw_errno(prefix, failure);
      if (!S_ISDIR(info.st_mode)) throw Error(Category::refused, prefix + ": is not a directory");
    }
    if (end == std::string::npos) return;
  }
}

std::size_t read_some_at(int fd, std::uint64_t offset, MutableBytes buffer) {
  std::size_t total = 0;
  while (total < buffer.size()) {
    const ssize_t count =
        ::pread(fd, buffer.data() + total, buffer.size() - total, static_cast<off_t>(offset + total));
    if (count == 0) break;
    if (count > 0)
      total += static_cast<std::size_t>(count);
    else if (errno != EINTR)
      throw_errno_of(fd, "read", errno);
  }
  return total;
}

bool read_exact_at(int fd, std::uint64_t offset, MutableBytes buffer) {
  return read_some_at(fd, offset, buffer) == buffer.size();
}

ReadAt reader_of(int fd) {
  return [fd](std::uint64_t offset, MutableBytes buffer) { return read_exact_at(fd, offset, buffer); };
}

std::size_t read_available(int fd, MutableBytes buffer) {
  while (true) {
    const ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINTR && !wait_until_ready(fd, POLLIN)) throw_errno_of(fd, "read", errno);
  }
}

bool rename_to_free_name(int from_dir, const std::string& from, int to_dir, const std::string& to) noexcept {
  if (::renameat2(from_dir, from.c_str(), to_dir, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  return (errno == EINVAL || errno == ENOSYS) && ::renameat(from_dir, from.c_str(), to_dir, to.c_str()) == 0;
}

std::size_t read_some(int fd, MutableBytes buffer) {
  std::size_t total = 0;
  while (total < buffer.size()) {
    const auto count = read_available(fd, buffer.subspan(total));
    if (count == 0) break;
    total += count;
  }
  return total;
}

void write_all(int fd, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0) {
      if (errno == EINTR || wait_until_ready(fd, POLLOUT)) continue;
      throw_errno_of(fd, "write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void write_at(int fd, std::uint64_t offset, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno_of(fd, "write", errno);
    offset += static_cast<std::uint64_t>(count);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

std::string read_file(int dir, const std::string& path, std::size_t limit) {
  // A fifo in place of the file must not hang us.
  return read_opened(open_at(dir, path, O_RDONLY | O_NONBLOCK).get(), path, limit);
}

std::optional<std::string> find_file(int dir, const std::string& path, std::size_t limit) {
  const auto fd = find_open_at(dir, path, O_RDONLY);
  return fd ? std::optional(read_opened(fd->get(), path, limit)) : std::nullopt;
}

std::uint64_t file_size(int fd) {
  struct stat info;
  if (::fstat(fd, &info) != 0) throw_errno_of(fd, "stat", errno);
  return static_cast<std::uint64_t>(info.st_size);
}

std::vector<std::string> list_directory(int dir) {
  auto own = open_at(dir, ".", O_RDONLY | O_DIRECTORY);  // fdopendir moves the offset of what it gets
  const CPtr<DIR, ::closedir> stream{::fdopendir(own.get())};
  if (stream == nullptr) throw_errno_of(dir, "open directory", errno);
  (void)own.release();
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) throw_errno_of(dir, "read directory", errno);
  std::sort(names.begin(), names.end());
  return names;
}

void sync_file(int fd) {
  if (::fsync(fd) != 0) throw_errno_of(fd, "fsync", errno);
}

void begin_writeback(int fd) noexcept {
  (void)::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

void sync_directory(int dir) {
  // EINVAL: a file system without directory sync; EBADF: an O_PATH handle would be our bug
  if (::fsync(dir) != 0 && errno != EINVAL) throw_errno_of(dir, "fsync", errno);
}

namespace {

/// Removes what is no directory, or an empty one; false if it is one with something in it.
bool remove_one(int dir, const std::string& name) {
  if (::unlinkat(dir, name.c_str(), 0) == 0 || errno == ENOENT) return true;
  if (errno != EISDIR && errno != EPERM) throw_errno("remove " + name, errno);
  if (::unlinkat(dir, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return true;
  if (errno != ENOTEMPTY && errno != EEXIST && errno != EACCES) throw_errno("remove " + name, errno);
  return false;
}

/// Opens a directory whose content is to go, with the right to change it if that can be had.
UniqueFd open_to_empty(int dir, const std::string& name) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  int fd = retrying_open(dir, name.c_str(), kFlags, 0);
  if (fd < 0 && errno == EACCES && ::fchmodat(dir, name.c_str(), 0700, 0) == 0)
    fd = retrying_open(dir, name.c_str(), kFlags, 0);
  if (fd < 0) throw_errno("remove " + name, errno);
  UniqueFd opened(fd);
  struct stat info;
  if (::fstat(fd, &info) == 0 && (info.st_mode & 0700) != 0700) (void)::fchmod(fd, 0700);
  return opened;
}

}  // namespace

void remove_tree(int dir, const std::string& name) {
  if (remove_one(dir, name)) return;
  struct Level {
    std::string path;  ///< below `dir`
    UniqueFd fd;       ///< closed while far below: trees may be deeper than files may be open
    std::vector<std::string> names;
  };
  constexpr std::size_t kOpenLevels = 64;
  std::vector<Level> levels;
  const auto enter = [&](int parent, const std::string& child, std::string path) {
    auto fd = open_to_empty(parent, child);
    auto names = list_directory(fd.get());
    if (levels.size() >= kOpenLevels) levels[levels.size() - kOpenLevels].fd.reset();
    levels.push_back({std::move(path), std::move(fd), std::move(names)});
  };
  named(name, [&] {
    enter(dir, name, name);
    while (!levels.empty()) {
      Level& level = levels.back();
      if (!level.fd) level.fd = open_beneath(dir, level.path, O_RDONLY | O_DIRECTORY);
      if (!level.names.empty()) {
        const auto child = std::move(level.names.back());
        level.names.pop_back();
        if (!remove_one(level.fd.get(), child)) enter(level.fd.get(), child, level.path + "/" + child);
        continue;
      }
      const auto path = std::move(level.path);
      levels.pop_back();
      if (levels.empty()) break;
      Level& above = levels.back();
      if (!above.fd) above.fd = open_beneath(dir, above.path, O_RDONLY | O_DIRECTORY);
      if (!remove_one(above.fd.get(), path.substr(path.rfind('/') + 1)))
        throw Error(Category::local, "remove: something new appeared in it");
    }
  });
  if (::unlinkat(dir, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
    throw_errno("remove " + name, errno);
}

std::string random_name() {
  std::array<std::byte, 16> bits;
  if (::getrandom(bits.data(), bits.size(), 0) != static_cast<ssize_t>(bits.size()))
    throw_errno("getrandom", errno);
  return to_hex(bits);
}

std::string human_size(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  char text[32];
  (void)std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string counted(std::uint64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + " " + (count == 1 ? one : many.empty() ? one + "s" : many);
}

}  // namespace base
