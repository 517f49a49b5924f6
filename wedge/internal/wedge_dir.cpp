#include "wedge/internal/wedge_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "wedge/internal/walk.h"

namespace wedge::internal {

using base::Category;
using base::Error;
using base::find_stat;

WedgeDir::WedgeDir(const std::string& path, bool read_only, StatCache* cache,
                   std::function<void(const std::string&)> on_note)
    : cache_(cache), on_note_(std::move(on_note)) {
  if (read_only) {
    auto top = base::find_open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
    if (!top) return;
    top_ = std::move(*top);
    if (auto records = base::find_open_at(top_.get(), ".shrub/entries", O_RDONLY | O_DIRECTORY))
      records_ = std::move(*records);
    return;
  }
  base::make_directories(path);
  top_ = base::open_directory(AT_FDCWD, path);
  state_ = base::ensure_directory(top_.get(), ".shrub", 0700);
  lock_ = base::open_as_parent(state_.get(), "lock");
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) base::throw_errno("lock", errno);
    throw Error(Category::busy, "wedge " + path + ": another sync is at work");
  }
  tmp_ = base::ensure_directory_as_parent(state_.get(), "tmp", 0700);
  (void)::fremovexattr(tmp_.get(), "system.posix_acl_default");  // what is made there inherits nothing
  old_ = base::ensure_directory_as_parent(state_.get(), "old", 0700);
  records_ = base::ensure_directory_as_parent(state_.get(), "entries", 0700);
}

std::optional<base::UniqueFd> WedgeDir::find_parent(const std::string& path) const {
  if (!top_) return std::nullopt;
  try {
    return base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
  } catch (const Error& error) {
    if (error.category() == Category::not_found) return std::nullopt;
    throw;
  }
}

std::optional<base::UniqueFd> WedgeDir::look_for_parent(const std::string& path) const {
  try {
    return find_parent(path);
  } catch (const Error& error) {
    if (error.category() != Category::refused) throw;
    return std::nullopt;
  }
}

base::UniqueFd WedgeDir::make_parent(const std::string& path) const {
  auto at = base::open_at(top_.get(), ".", O_RDONLY | O_DIRECTORY);
  if (path == ".") return at;
  for (std::string_view rest = path; !rest.empty();) {
    const std::string name(base::take_field(rest, '/'));
    // EEXIST: it is shared with other entries. Anything but a directory is refused below.
    const bool is_made = ::mkdirat(at.get(), name.c_str(), 0777) == 0;
    if (!is_made && errno != EEXIST) base::throw_errno(path, errno);
    auto next = base::open_beneath(at.get(), name, O_RDONLY | O_DIRECTORY);
    if (is_made && base::is_shared(state_.get())) base::share(next.get());
    at = std::move(next);
  }
  return at;
}

std::optional<Record> WedgeDir::find_record(const std::string& path) const {
  return read_sound_record(records_.get(), record_name(path) + ".state");
}

void WedgeDir::note(const std::string& text) const {
  if (on_note_) on_note_(text);
}

void WedgeDir::clear(int dir, const std::string& name) const {
  try {
    base::remove_tree(dir, name);
  } catch (const Error& error) {
    if (error.category() != Category::local) throw;
    note(std::string("cannot be removed from .shrub: ") + error.what());
  }
}

void WedgeDir::discard_old(const std::string& name) const {
  for (const auto& other : base::list_directory(old_.get()))
    if (other.starts_with(name + "-")) clear(old_.get(), other);
  const auto info = cache_ != nullptr ? find_stat(old_.get(), name) : std::nullopt;
  if (info && S_ISDIR(info->st_mode)) {
    const auto top = base::open_beneath(old_.get(), name, O_RDONLY | O_DIRECTORY);
    Walk walk(
        top.get(), [](const auto&) { return Walk::Take::all; }, [](const auto&, const auto&) {});
    while (const auto entry = walk.next()) {
      struct stat file;
      const auto parent = Walk::open_parent(top.get(), *entry);
      const auto below = entry->name();
      if (entry->type != DT_REG || ::fstatat(parent->get(), below.c_str(), &file, AT_SYMLINK_NOFOLLOW) != 0 ||
          file.st_nlink < 2)
        continue;
      const auto handle = base::find_open_at(parent->get(), below, O_PATH | O_NOFOLLOW);
      if (handle)
        cache_->keep_across(handle->get(), [&] { (void)::unlinkat(parent->get(), below.c_str(), 0); });
    }
  }
  clear(old_.get(), name);
  // What cannot be removed (immutable, somebody else's) makes room for what comes.
  const auto aside = name + "-" + base::random_name();
  if (find_stat(old_.get(), name) && !base::rename_to_free_name(old_.get(), name, old_.get(), aside))
    base::throw_errno(".shrub/old/" + name, errno);
}

void WedgeDir::wait_for_clock() const {
  if (cache_ == nullptr) return;
  const auto made = StatCache::now();
  while (StatCache::now() <= made) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace wedge::internal
