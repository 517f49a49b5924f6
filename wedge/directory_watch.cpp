#include "wedge/directory_watch.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "wedge/internal/walk.h"

namespace wedge {

DirectoryWatch::DirectoryWatch(std::string path)
    : path_(std::move(path)), inotify_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
  if (!inotify_) base::throw_errno("inotify", errno);
}

bool DirectoryWatch::watch(const std::string& directory) {
  constexpr std::uint32_t kEvents = IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_MOVE | IN_DELETE_SELF |
                                    IN_MOVE_SELF | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK;
  const int number = ::inotify_add_watch(inotify_.get(), directory.c_str(), kEvents);
  if (number < 0) {
    if (errno == ENOSPC) return false;
    if (errno == ENOENT || errno == ENOTDIR || errno == EACCES)
      return true;  // gone meanwhile, or not to be read
    base::throw_errno("watch " + directory, errno);
  }
  directories_[number] = directory;
  return true;
}

bool DirectoryWatch::rescan() {
  const auto top = base::open_directory(AT_FDCWD, path_);
  bool complete = true;
  internal::Walk walk(
      top.get(),
      [](const auto& entry) {
        return entry.type == DT_DIR ? internal::Walk::Take::all : internal::Walk::Take::nothing;
      },
      [](const auto&, const auto&) {});
  while (const auto entry = walk.next())
    complete = watch(entry->path == "." ? path_ : path_ + "/" + entry->path) && complete;
  return complete;
}

bool DirectoryWatch::take_events() {
  alignas(inotify_event) std::array<char, 65536> buffer;
  bool changed = false, lost = false;
  while (true) {
    const ssize_t count = ::read(inotify_.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno != EAGAIN) base::throw_errno("inotify", errno);
    if (count <= 0) break;
    changed = true;
    for (std::size_t at = 0; at < static_cast<std::size_t>(count);) {
      inotify_event event;
      std::memcpy(&event, buffer.data() + at, sizeof event);
      const char* const name = buffer.data() + at + sizeof event;
      at += sizeof event + event.len;
      if ((event.mask & IN_Q_OVERFLOW) != 0) lost = true;
      if ((event.mask & IN_IGNORED) != 0) directories_.erase(event.wd);
      const auto parent = directories_.find(event.wd);
      // What came into a new directory before it was watched is found by the scan that follows.
      if ((event.mask & IN_ISDIR) != 0 && (event.mask & (IN_CREATE | IN_MOVED_TO)) != 0 &&
          parent != directories_.end())
        lost = !watch(parent->second + "/" + name) || lost;
      if ((event.mask & (IN_MOVED_TO | IN_MOVED_FROM)) != 0 && (event.mask & IN_ISDIR) != 0) lost = true;
    }
  }
  if (lost) (void)rescan();
  return changed;
}

}  // namespace wedge
