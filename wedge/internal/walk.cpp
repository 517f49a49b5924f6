#include "wedge/internal/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <exception>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace wedge::internal {

std::vector<std::pair<std::string, unsigned char>> list_typed(int dir) {
  auto own = base::open_at(dir, ".", O_RDONLY | O_DIRECTORY);
  const base::CPtr<DIR, ::closedir> stream{::fdopendir(own.get())};
  if (stream == nullptr) base::throw_errno("open directory", errno);
  (void)own.release();
  std::vector<std::pair<std::string, unsigned char>> names;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    unsigned char type = entry->d_type;
    struct stat info;
    if (type == DT_UNKNOWN && ::fstatat(dir, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0)
      type = static_cast<unsigned char>(IFTODT(info.st_mode));
    names.emplace_back(name, type);
  }
  if (errno != 0) base::throw_errno("read directory", errno);
  std::sort(names.begin(), names.end());
  return names;
}

void Walk::open(const std::string& path) {
  const auto dir = base::open_beneath(top_, path.empty() ? "." : path, O_RDONLY | O_DIRECTORY);
  levels_.push_back({path, list_typed(dir.get()), 0});
}

std::optional<Walk::Entry> Walk::next() {
  if (!started_) {
    started_ = true;
    pending_ = "";
    return Entry{".", DT_DIR};
  }
  if (pending_) {
    const auto path = *std::exchange(pending_, std::nullopt);
    try {
      open(path);
    } catch (const base::Error&) {
      unreadable_(path.empty() ? "." : path, std::current_exception());
    }
  }
  while (!levels_.empty()) {
    Level& level = levels_.back();
    if (level.at == level.names.size()) {
      levels_.pop_back();
      continue;
    }
    const auto& [name, type] = level.names[level.at++];
    Entry entry{level.path.empty() ? name : level.path + "/" + name, type};
    if (!filter_(entry)) continue;
    if (type == DT_DIR) pending_ = entry.path;
    return entry;
  }
  return std::nullopt;
}

}  // namespace wedge::internal
