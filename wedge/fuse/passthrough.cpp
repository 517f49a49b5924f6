#define FUSE_USE_VERSION 35
#include "wedge/fuse/passthrough.h"

#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

namespace wedge {
namespace {

// As <linux/fuse.h> of Linux 6.9 has them.
struct BackingMap {
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};
constexpr unsigned long kBackingOpen = _IOW(229, 1, BackingMap), kBackingClose = _IOW(229, 2, std::uint32_t);
constexpr std::uint32_t kPassthrough = 1U << 7;  // flag of an opened file; no cache may be asked for with it
constexpr std::uint32_t kInitExt = 1U << 30, kInitWriteback = 1U << 16, kInitPassthrough = 1U << 5;
constexpr std::size_t kOutHeader = 16, kInitOut = 64;               // bytes
constexpr std::size_t kFlags = 12, kFlags2 = 32, kStackDepth = 36;  // places in the reply to INIT

/// The first reply of a session is the one to INIT.
std::atomic<bool> is_init_answered = false;

ssize_t write_reply(int fd, iovec* parts, int count, void* /*session*/) {
  if (!is_init_answered.exchange(true) && count == 2 && parts[0].iov_len == kOutHeader &&
      parts[1].iov_len >= kInitOut) {
    auto* reply = static_cast<char*>(parts[1].iov_base);
    const auto change = [&](std::size_t at, std::uint32_t set, std::uint32_t clear) {
      std::uint32_t value;
      std::memcpy(&value, reply + at, sizeof value);
      value = (value & ~clear) | set;
      std::memcpy(reply + at, &value, sizeof value);
    };
    change(kFlags, kInitExt, kInitWriteback);
    change(kFlags2, kInitPassthrough, 0);
    change(kStackDepth, 1, UINT32_MAX);
  }
  return ::writev(fd, parts, count);
}

ssize_t read_request(int fd, void* to, std::size_t size, void* /*session*/) {
  return ::read(fd, to, size);
}

}  // namespace

std::optional<base::UniqueFd> Passthrough::mount(const std::string& directory, const std::string& name,
                                                 bool allow_other) {
  if (::geteuid() != 0) return std::nullopt;
  base::UniqueFd fd(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (fd.get() < 0) return std::nullopt;
  const auto options = "fd=" + std::to_string(fd.get()) +
                       ",rootmode=40000,user_id=0,group_id=0,default_permissions" +
                       (allow_other ? ",allow_other" : "");
  if (::mount(name.c_str(), directory.c_str(), "fuse.shrub", MS_RDONLY | MS_NOSUID | MS_NODEV,
              options.c_str()) != 0)
    return std::nullopt;
  return fd;
}

bool Passthrough::attach(fuse_session* session, int fd) {
  static const fuse_custom_io io{write_reply, read_request, nullptr, nullptr};
  is_init_answered = false;
  return fuse_session_custom_io(session, &io, fd) == 0;
}

std::int32_t Passthrough::open(std::uint64_t inode,
                               const std::function<std::optional<base::UniqueFd>()>& find) {
  const std::lock_guard lock(mutex_);
  if (const auto known = opened_.find(inode); known != opened_.end()) {
    ++known->second.count;
    return known->second.backing;
  }
  const auto file = find();
  const auto backing = file ? add_backing(file->get()) : 0;
  opened_.emplace(inode, Opened{1, backing});
  return backing;
}

void Passthrough::close(std::uint64_t inode) {
  const std::lock_guard lock(mutex_);
  const auto opened = opened_.find(inode);
  if (opened == opened_.end() || --opened->second.count > 0) return;
  const auto backing = static_cast<std::uint32_t>(opened->second.backing);
  if (backing != 0) (void)::ioctl(fd_, kBackingClose, &backing);
  opened_.erase(opened);
}

std::int32_t Passthrough::add_backing(int file) const {
  const BackingMap map{file, 0, 0};
  return std::max(0, ::ioctl(fd_, kBackingOpen, &map));
}

Passthrough::OpenReply Passthrough::reply(std::uint64_t handle, std::int32_t backing) noexcept {
  return {handle, kPassthrough, backing};
}

}  // namespace wedge
