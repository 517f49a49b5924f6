#include "wedge/internal/in_place.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/place_file.h"

namespace wedge::internal {
namespace {

using formats::Row;
using Change = RowChanges::Change;

bool is_below(const std::string& path, const std::string& directory) {
  return !directory.empty() && path.size() > directory.size() && path.starts_with(directory) &&
         path[directory.size()] == '/';
}

class TreeChanger {
 public:
  TreeChanger(int top, int work, const Fidelity& fidelity, StatCache* cache)
      : top_(top),
        work_(work),
        fresh_(base::ensure_directory(work, "new", 0700)),
        fidelity_(fidelity),
        cache_(cache) {}

  void run(NextRow before, const NextRow& after) {
    RowChanges changes(std::move(before), [this](const Row& row) { take_out(row); });
    for (Row row; after(row);) {
      const auto change = changes.next(row);
      if (is_below(row.path, moved_in_)) continue;
      if (row.type == Row::Type::directory) {
        while (!inside_.empty() && inside_.back().path != "." && !is_below(row.path, inside_.back().path))
          inside_.pop_back();
        inside_.push_back(row);
      }
      if (change == Change::metadata) touched_.emplace(row.path, row);
      if (change == Change::made) base::named(formats::escape(row.path), [&] { put_in(row); });
    }
    changes.finish();
    for (auto directory = touched_.rbegin(); directory != touched_.rend(); ++directory)
      base::named(formats::escape(directory->first), [&] {
        const auto fd = base::open_beneath(top_, directory->first, O_RDONLY | O_DIRECTORY);
        remove_other_xattrs(fd.get(), directory->second, fidelity_);
        (void)set_metadata(fd.get(), directory->second, fidelity_);
      });
  }

 private:
  void put_in(const Row& row) {
    const bool directory = row.type == Row::Type::directory;
    const auto [parent_path, name] = formats::split_path(row.path);
    const auto parent = open_parent(parent_path);
    (directory ? moved_in_ : taken_out_) = row.path;  // all that lies below comes, or goes, with it
    if (directory) touched_.emplace(row.path, row);
    std::optional<base::UniqueFd> staged;
    try {
      staged = base::open_beneath(fresh_.get(), parent_path, O_RDONLY | O_DIRECTORY);
    } catch (const base::Error& error) {
      if (error.category() != base::Category::not_found) throw;
    }
    if (!staged || !find_stat(staged->get(), name)) return;  // moved in already
    if (const auto present = find_stat(parent.get(), name)) {
      if (directory || S_ISDIR(present->st_mode))
        move_out(parent.get(), row.path);
      else
        link_out(parent.get(), row.path);
    }
    const WritableTop writable(staged->get(), name);
    const auto move = [&, &name = name] {
      if (::renameat(staged->get(), name.c_str(), parent.get(), name.c_str()) != 0)
        base::throw_errno("move into place", errno);
    };
    if (cache_ == nullptr || row.type == Row::Type::symlink || directory) return move();
    const auto file = base::open_at(staged->get(), name, O_PATH | O_NOFOLLOW);
    cache_->keep_across(file.get(), move);
  }

  void take_out(const Row& row) {
    if (row.path == taken_out_ || is_below(row.path, taken_out_)) return;
    taken_out_ = row.path;
    base::named(formats::escape(row.path), [&] {
      const auto [parent_path, name] = formats::split_path(row.path);
      const auto parent = open_parent(parent_path);
      if (find_stat(parent.get(), name)) move_out(parent.get(), row.path);
    });
  }

  /// A directory of the tree in which something changes. It gets its metadata when all is done.
  base::UniqueFd open_parent(const std::string& path) {
    for (auto row = inside_.rbegin(); row != inside_.rend(); ++row)
      if (row->path == path) touched_.emplace(path, *row);
    auto fd = base::open_beneath(top_, path, O_RDONLY | O_DIRECTORY);
    struct stat info;
    if (::geteuid() != 0 && ::fstat(fd.get(), &info) == 0 && (info.st_mode & S_IWUSR) == 0)
      (void)::fchmod(fd.get(),
                     (info.st_mode & 07777) | S_IRWXU);  // what follows will say if it was not enough
    return fd;
  }

  base::UniqueFd open_old(const std::string& path) {
    if (!old_) old_ = base::ensure_directory(work_, "old", 0700);
    return ensure_beneath(old_.get(), path);
  }

  void move_out(int parent, const std::string& path) {
    const auto name = formats::split_path(path).second;
    const auto to = open_old(formats::split_path(path).first);
    const WritableTop writable(parent, name);
    for (std::string kept = name;; kept += "~") {
      if (::renameat2(parent, name.c_str(), to.get(), kept.c_str(), RENAME_NOREPLACE) == 0) return;
      if (errno == EINVAL || errno == ENOSYS) {  // a file system that cannot say so
        if (find_stat(to.get(), kept)) continue;
        if (::renameat(parent, name.c_str(), to.get(), kept.c_str()) == 0) return;
      }
      if (errno != EEXIST) base::throw_errno("move out of the way", errno);
    }
  }

  /// Keeps a file that is about to be replaced, so that its path is never without one.
  void link_out(int parent, const std::string& path) {
    const auto name = formats::split_path(path).second;
    const auto to = open_old(formats::split_path(path).first);
    const auto present = find_stat(parent, name), kept = find_stat(to.get(), name);
    if (present && kept && present->st_ino == kept->st_ino && present->st_dev == kept->st_dev) return;
    if (kept || ::linkat(parent, name.c_str(), to.get(), name.c_str(), 0) != 0) move_out(parent, path);
  }

  int top_, work_;
  base::UniqueFd fresh_, old_;
  const Fidelity& fidelity_;
  StatCache* cache_;
  std::vector<Row> inside_;             ///< the directories the last row lies in, outermost first
  std::map<std::string, Row> touched_;  ///< directories to get their metadata; after all that is in them
  std::string moved_in_, taken_out_;    ///< the last path of each kind
};

}  // namespace

RowChanges::RowChanges(NextRow before, std::function<void(const Row&)> on_removed)
    : before_(std::move(before)), on_removed_(std::move(on_removed)) {
  advance();
}

void RowChanges::advance() {
  have_ = before_(row_);
}

Change RowChanges::next(const Row& after) {
  while (have_ && formats::compare_paths(row_.path, after.path) < 0) {
    if (on_removed_) on_removed_(row_);
    advance();
  }
  std::optional<Row> before;
  if (have_ && row_.path == after.path) {
    before = std::move(row_);
    advance();
  }
  if (after.type == Row::Type::directory) {
    if (!before || before->type != Row::Type::directory) return Change::made;
    return *before == after ? Change::none : Change::metadata;
  }
  if (before && *before == after && !(after.type == Row::Type::hard_link && made_.contains(after.target)))
    return Change::none;
  made_.insert(after.path);
  return Change::made;
}

void RowChanges::finish() {
  while (have_) {
    if (on_removed_) on_removed_(row_);
    advance();
  }
}

void change_tree(int top, int work, NextRow before, const NextRow& after, const Fidelity& fidelity,
                 StatCache* cache) {
  TreeChanger(top, work, fidelity, cache).run(std::move(before), after);
}

}  // namespace wedge::internal
