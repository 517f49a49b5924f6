#include "wedge/internal/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace wedge::internal {
namespace {

constexpr int kOpenDirectories = 128;  ///< that entries keep open; beyond, they are opened by path

/// Names in a directory with their types, in byte order.
std::vector<std::pair<std::string, unsigned char>> list_typed(int dir) {
  base::UniqueFd own(::fcntl(dir, F_DUPFD_CLOEXEC, 0));
  const base::CPtr<DIR, ::closedir> stream{::fdopendir(own.get())};
  if (stream == nullptr) base::throw_errno("open directory", errno);
  (void)own.release();
  ::rewinddir(stream.get());  // the place in it is shared with `dir`
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

}  // namespace

std::string Walk::Entry::name() const {
  return path.substr(path.rfind('/') + 1);
}

SharedDirectory Walk::share(base::UniqueFd fd) const {
  ++*open_;
  return {new base::UniqueFd(std::move(fd)), [open = open_](const base::UniqueFd* held) {
            delete held;
            --*open;
          }};
}

SharedDirectory Walk::open_parent(int top, const Entry& entry) {
  if (entry.parent != nullptr) return entry.parent;
  const auto slash = entry.path.rfind('/');
  return std::make_shared<const base::UniqueFd>(base::open_beneath(
      top, slash == std::string::npos ? "." : entry.path.substr(0, slash), O_RDONLY | O_DIRECTORY));
}

void Walk::descend(const Entry& entry) {
  // Of a very deep tree only the last directories stay open.
  constexpr std::size_t kOpenLevels = 32;
  if (levels_.size() >= kOpenLevels) levels_[levels_.size() - kOpenLevels].directory.reset();
  auto directory = share(
      base::open_at(open_parent(top_, entry)->get(), entry.name(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  auto names = list_typed(directory->get());
  levels_.push_back({entry.path == "." ? "" : entry.path, std::move(directory), std::move(names), 0});
}

std::optional<Walk::Entry> Walk::next() {
  if (!started_) {
    started_ = true;
    pending_ =
        Entry{".", DT_DIR,
              std::make_shared<const base::UniqueFd>(base::open_at(top_, ".", O_RDONLY | O_DIRECTORY))};
    return pending_;
  }
  if (const auto directory = std::exchange(pending_, std::nullopt)) {
    try {
      descend(*directory);
    } catch (const base::Error&) {
      unreadable_(directory->path, std::current_exception());
    }
  }
  while (!levels_.empty()) {
    Level& level = levels_.back();
    if (level.at == level.names.size()) {
      levels_.pop_back();
      continue;
    }
    if (level.directory == nullptr)
      level.directory = share(base::open_beneath(top_, level.path, O_RDONLY | O_DIRECTORY));
    const auto& [name, type] = level.names[level.at++];
    Entry entry{level.path.empty() ? name : level.path + "/" + name, type,
                *open_ < kOpenDirectories ? level.directory : nullptr};
    const auto take = filter_(entry);
    if (take == Take::nothing) continue;
    if (type == DT_DIR && take == Take::all) pending_ = entry;
    return entry;
  }
  return std::nullopt;
}

}  // namespace wedge::internal
