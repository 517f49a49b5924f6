#include "wedge/fuse/writable_view.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "formats/base/unique_fd.h"

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

/// What the tables of mounts write as octal numbers, as it is.
std::string decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool is_octal = text[i] == '\\' && i + 3 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '3';
    out += is_octal
               ? static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'))
               : text[i];
    if (is_octal) i += 3;
  }
  return out;
}

/// The kind and the options of what is mounted at a path, the last of several.
struct Mounted {
  std::string kind, options;
};
std::optional<Mounted> find_mount(const std::string& path) {
  std::ifstream table("/proc/self/mountinfo");
  std::optional<Mounted> found;
  for (std::string line; std::getline(table, line);) {
    std::string_view rest = line;
    std::string_view place;
    for (int i = 0; i < 5; ++i) place = base::take_field(rest, ' ');
    const auto dash = rest.find(" - ");
    if (decoded(place) != path || dash == std::string_view::npos) continue;
    rest.remove_prefix(dash + 3);
    found.emplace();
    found->kind = base::take_field(rest, ' ');
    (void)base::take_field(rest, ' ');
    found->options = decoded(rest);
    std::erase(found->options, '\\');  // which kernels show, or not, where it was given
  }
  return found;
}

void make(const std::string& path, mode_t mode) {
  // EEXIST: what was kept of an earlier mount. Anything but a directory is refused by overlayfs.
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) base::throw_errno(path, errno);
}

}  // namespace

WritableView::WritableView(const std::string& kept, const std::string& directory, bool is_private)
    : kept_(std::filesystem::absolute(kept).lexically_normal().string()), directory_(directory) {
  base::make_directories(kept_);
  struct stat info {};
  if (::stat(lower().c_str(), &info) != 0 && errno == ENOTCONN) {  // its process was killed
    if (is_mounted()) (void)::umount2(directory_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
    (void)::umount2(lower().c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  }
  if (find_mount(lower()) || is_mounted())
    throw Error(Category::busy, kept_ + ": is in use by another mount");
  for (const auto* name : {"/lower", "/work"}) make(kept_ + name, 0700);
  make(kept_ + "/upper", 0755);
  // The top of the view is that of `upper`.
  if (::chmod((kept_ + "/upper").c_str(), is_private ? 0700 : 0755) != 0) base::throw_errno(kept_, errno);
}

WritableView::~WritableView() {
  if (is_mounted()) (void)::umount2(directory_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
}

bool WritableView::is_mounted() const {
  const auto there = find_mount(directory_);
  auto upper = "upperdir=" + kept_ + "/upper";
  std::erase(upper, '\\');
  return there && there->kind == "overlay" && there->options.find(upper) != std::string::npos;
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
  if (code == 0) return;
  throw Error(Category::local,
              "--rw-overlay: cannot mount overlayfs at " + directory_ + ": " + std::strerror(code),
              code == EPERM ? "it takes root, or a user namespace (unshare -Urm)"
                            : "its directory has to lie on a file system like ext4, xfs or tmpfs");
}

void WritableView::wait(const std::function<bool()>& is_over) const {
  const auto table = base::open_at(AT_FDCWD, "/proc/self/mountinfo", O_RDONLY);
  while (!is_over() && is_mounted()) {
    pollfd changes{table.get(), POLLPRI, 0};
    (void)::poll(&changes, 1, kPoll);
  }
}

}  // namespace wedge
