#include "wedge/internal/settle.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <optional>
#include <set>

#include "formats/base/file.h"
#include "wedge/internal/content_update.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/entry_key.h"
#include "wedge/internal/in_place.h"
#include "wedge/internal/move.h"
#include "wedge/internal/place_file.h"
#include "wedge/internal/walk.h"

namespace wedge::internal {

using base::Category;
using base::Error;
using base::find_stat;
using formats::Row;

namespace {

constexpr std::time_t kLongestWrite = 10;  ///< seconds
/// In a workspace: the old state is being moved there by parts.
constexpr const char* kByParts = "parts";

std::vector<std::string> carry_out_content(const WedgeDir& dir, const Record& made, const Row& after,
                                           int work, bool again) {
  const auto name = record_name(made.path);
  const auto before = read_first(dir.records(), name + ".state");
  const auto [parent_path, entry] = formats::split_path(made.path);
  const auto parent = base::open_beneath(dir.top(), parent_path, O_RDONLY | O_DIRECTORY);
  const auto pinned = find_stat(work, kPinned), there = find_stat(parent.get(), entry),
             extents = find_stat(work, "extents");
  const auto is_time_of = [&](const std::optional<Row>& row) {
    return row && there->st_mtim.tv_sec == row->mtime.seconds &&
           there->st_mtim.tv_nsec == row->mtime.nanoseconds;
  };
  if (!pinned || !there || !extents || pinned->st_ino != there->st_ino || there->st_nlink != 2) return {"."};
  // An earlier run wrote after `after` was made and not long after it set the time of the extents.
  const bool ours = is_time_of(after) || (there->st_mtim.tv_sec >= after.mtime.seconds - 1 &&
                                          there->st_mtim.tv_sec <= extents->st_mtim.tv_sec + kLongestWrite);
  if (!is_time_of(before) && !(again && ours)) return {"."};
  const auto fd = base::open_at(parent.get(), entry, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  apply_content(work, fd.get(), after.size);
  const timespec time{after.mtime.seconds, after.mtime.nanoseconds};
  const timespec times[] = {time, time};
  if (::futimens(fd.get(), times) != 0) base::throw_errno("set time", errno);
  base::sync_file(fd.get());
  dir.discard_old(name);  // what was overwritten is nowhere
  return {};
}

/// Puts in place what was staged. May be interrupted and run again at any point. Returns what was left as
/// it is because it is no longer what sync made.
std::vector<std::string> carry_out(const WedgeDir& dir, const Record& made, int work, bool again) {
  const auto name = record_name(made.path);
  const auto after = read_first(dir.records(), name + ".next");
  if (!after) throw Error(Category::local, "the record of what was under way is not readable");
  if (after->type != Row::Type::directory) return carry_out_content(dir, made, *after, work, again);
  const auto top = base::open_beneath(dir.top(), made.path, O_RDONLY | O_DIRECTORY);
  const std::function<NextRow()> before = [&] { return read_rows(dir.records(), name + ".state"); };
  auto left = change_tree(top.get(), work, before, read_rows(dir.records(), name + ".next"),
                          fidelity_of(made.key), dir.cache());
  if (::syncfs(top.get()) != 0) base::throw_errno("sync", errno);
  return left;
}

void finish_top(const WedgeDir& dir, const Record& made) {
  // Some file systems (xfs) change the time of a directory that is moved.
  const auto top = read_first(dir.records(), record_name(made.path) + ".next");
  if (top && top->type == Row::Type::directory)
    (void)set_top(dir.top(), made.path, *top, fidelity_of(made.key));
}

}  // namespace

Lost set_top(int parent, const std::string& path, const Row& top, const Fidelity& fidelity) {
  const auto dir = base::open_beneath(parent, path, O_RDONLY | O_DIRECTORY);
  return set_metadata(dir.get(), top, fidelity);
}

namespace {

/// Lets the group remove what was made before the wedge was shared.
void share_directories(int parent, const std::string& name) {
  const auto top = base::find_open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!top || base::is_shared(top->get())) return;
  Walk walk(
      top->get(), [](const auto&) { return Walk::Take::all; }, [](const auto&, const auto&) {});
  while (const auto entry = walk.next()) {
    if (entry->type != DT_DIR) continue;
    const auto directory = base::find_open_at(Walk::open_parent(top->get(), *entry)->get(), entry->name(),
                                              O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (directory) base::share(directory->get());
  }
}

void move_in(int work, int parent, const std::string& name, bool there) {
  if (there) move_path(parent, name, work, "old");
  if (::renameat(work, "new", parent, name.c_str()) != 0) base::throw_errno(name, errno);
}

}  // namespace

void swap_in(int work, int parent, const std::string& name, bool there) {
  std::optional<WritableTop> writable;
  if (there) writable.emplace(parent, name);
  const unsigned flags = there ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  if (::renameat2(work, "new", parent, name.c_str(), flags) == 0) return;
  // EXDEV: of a directory of a lower layer of overlayfs; refuse_mounts() found nothing mounted.
  if (errno != EINVAL && errno != ENOSYS && !(there && errno == EXDEV)) base::throw_errno(name, errno);
  // No exchange: two moves. Between two renames recover() puts the old state back; what is moved by parts
  // goes on.
  if (errno == EXDEV) {
    base::open_at(work, kByParts, O_WRONLY | O_CREAT, 0600).close();
    base::sync_directory(work);
  }
  move_in(work, parent, name, there);
}

std::vector<std::string> settle(const WedgeDir& dir, const Record& made, bool again) {
  const auto name = record_name(made.path);
  const auto work = base::find_open_at(dir.tmp(), made.workspace, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  std::vector<std::string> left;
  const auto keep = [&](const char* previous) {
    if (!find_stat(work->get(), previous)) return;
    dir.discard_old(name);
    base::named("keep the old " + made.path, [&] { move_path(work->get(), previous, dir.old(), name); });
    if (base::is_shared(dir.old())) share_directories(dir.old(), name);
  };
  if (!made.in_place) finish_top(dir, made);
  if (made.in_place && work) left = carry_out(dir, made, work->get(), again);
  if (!made.in_place && work) keep("new");
  if (work) keep("old");
  base::sync_directory(dir.old());
  if (::renameat(dir.records(), (name + ".next").c_str(), dir.records(), (name + ".state").c_str()) != 0)
    base::throw_errno("record of " + made.path, errno);
  base::sync_directory(dir.records());
  dir.clear(dir.tmp(), made.workspace);
  return left;
}

bool is_unfinished(const WedgeDir& dir, const std::string& path, const struct stat& there) {
  const auto next = read_record(dir.records(), record_name(path) + ".next");
  return next && next->in_place && next->inode == there.st_ino;
}

std::map<std::string, Error> recover(const WedgeDir& dir) {
  std::map<std::string, Error> unfinished;
  base::remove_leftovers(dir.records());
  std::set<std::string> needed;
  for (const auto& name : base::list_directory(dir.records())) {
    if (name.ends_with(".draft")) base::remove_tree(dir.records(), name);
    if (!name.ends_with(".next")) continue;
    const auto record = read_record(dir.records(), name);
    if (record && formats::is_safe_path(record->path)) {
      const auto [parent_path, entry] = formats::split_path(record->path);
      const auto parent = dir.look_for_parent(parent_path);
      const auto info = parent ? find_stat(parent->get(), entry) : std::nullopt;
      const auto work = base::find_open_at(dir.tmp(), record->workspace, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      const bool by_parts = info && work && !record->in_place && find_stat(work->get(), kByParts) &&
                            find_stat(work->get(), "new");
      if (by_parts || (info && info->st_ino == record->inode)) {  // exchanged already, or to be changed
        try {
          if (by_parts) move_in(work->get(), parent->get(), entry, true);
          (void)settle(dir, *record, true);
        } catch (const Error& error) {
          unfinished.emplace(record->path, error);
          needed.insert(record->workspace);
        }
        continue;
      }
      if (parent && !info && !record->in_place) {
        if (work && find_stat(work->get(), "old")) {
          const WritableTop writable(work->get(), "old");
          if (!base::rename_to_free_name(work->get(), "old", parent->get(), entry))
            base::throw_errno("put back " + record->path, errno);
          base::sync_directory(parent->get());
        }
      }
    }
    if (::unlinkat(dir.records(), name.c_str(), 0) != 0) base::throw_errno(name, errno);
  }
  for (const auto& name : base::list_directory(dir.tmp()))
    if (!needed.contains(name)) dir.clear(dir.tmp(), name);
  return unfinished;
}

}  // namespace wedge::internal
