#include "wedge/fuse/writable_view.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string_view>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/mounts.h"
#include "formats/base/unique_fd.h"
#include "wedge/fuse/mount_point.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;

constexpr int kPoll = 200;  ///< milliseconds

/// Characters that would end a value in the options of overlayfs.
std::string escaped(std::string_view path, std::string_view special) {
  std::string text;
  for (const char c : path) {
    if (special.find(c) != std::string_view::npos) text += '\\';
    text += c;
  }
  return text;
}

/// What is mounted at a path, the last of several.
std::optional<base::MountRow> find_mount(const std::string& path) {
  std::optional<base::MountRow> found;
  for (auto& mount : base::read_mounts())
    if (mount.point == path) found = std::move(mount);
  return found;
}

void make(const std::string& path, mode_t mode) {
  // EEXIST: what was kept of an earlier mount. Anything but a directory is refused by overlayfs.
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) base::throw_errno(path, errno);
}

}  // namespace

WritableView::WritableView(const std::string& kept, const std::string& directory, bool is_private)
    : kept_(std::filesystem::absolute(kept).lexically_normal().string()),
      directory_(std::filesystem::weakly_canonical(directory).string()) {
  base::make_directories(kept_);
  struct statfs info {};  // what stat() says may be what the kernel remembers
  if (::statfs(lower().c_str(), &info) != 0 && errno == ENOTCONN) {  // its process was killed
    if (const auto view = find_view()) (void)unmount(directory_, *view);
    replace_dead_mount(lower());
  }
  if (find_mount(lower()) || find_view()) throw Error(Category::busy, kept_ + ": is in use by another mount");
  for (const auto* name : {"/lower", "/work"}) make(kept_ + name, 0700);
  make(kept_ + "/upper", 0755);
  // The top of the view is that of `upper`.
  if (::chmod((kept_ + "/upper").c_str(), is_private ? 0700 : 0755) != 0) base::throw_errno(kept_, errno);
}

WritableView::~WritableView() {
  if (id_) (void)unmount(directory_, *id_);
}

/// The mount at the directory that shows what is kept.
std::optional<MountId> WritableView::find_view() const {
  const auto there = find_mount(directory_);
  const auto found = there && there->type == "overlay" ? find_mount_at(directory_) : std::nullopt;
  if (!found || found->id != there->id) return std::nullopt;
  const auto wanted = "upperdir=" + kept_ + "/upper";
  for (auto option : there->super) {
    std::erase(option, '\\');  // which kernels show, or not, where it was given
    auto plain = wanted;
    std::erase(plain, '\\');
    if (option == plain) return found;
  }
  return std::nullopt;
}

void WritableView::mount() {
  const auto options = "lowerdir=" + escaped(lower(), "\\,:") +
                       ",upperdir=" + escaped(kept_ + "/upper", "\\,") +
                       ",workdir=" + escaped(kept_ + "/work", "\\,");
  // In a user namespace its own attributes have to be those of users.
  const auto in_namespace = options + ",userxattr";
  // The kernel asks what is below, which this process answers: a thread of it that waits for that could not
  // be killed, nor the process, for it would be alive to answer. So another one asks, without a file of ours.
  const pid_t child = ::fork();
  if (child < 0) base::throw_errno("--rw-overlay", errno);
  if (child == 0) {
    (void)::syscall(SYS_close_range, 3U, ~0U, 0U);
    const auto attempt = [&](const std::string& all) {
      return ::mount("shrub", directory_.c_str(), "overlay", MS_NOSUID | MS_NODEV, all.c_str()) == 0;
    };
    ::_exit(attempt(options) || attempt(in_namespace) ? 0 : errno);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) base::throw_errno("--rw-overlay", errno);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
  if (code == 0) {
    id_ = find_view();
    return;
  }
  throw Error(Category::local,
              "--rw-overlay: cannot mount overlayfs at " + directory_ + ": " + std::strerror(code),
              code == EPERM ? "it takes root, or a user namespace (unshare -Urm)"
                            : "its directory has to lie on a file system like ext4, xfs or tmpfs");
}

void WritableView::wait(const std::function<bool()>& is_over) const {
  const auto table = base::open_at(AT_FDCWD, "/proc/self/mountinfo", O_RDONLY);
  while (!is_over() && id_ && is_mounted(*id_)) {
    pollfd changes{table.get(), POLLPRI, 0};
    (void)::poll(&changes, 1, kPoll);
  }
}

}  // namespace wedge
