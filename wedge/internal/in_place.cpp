#include "wedge/internal/in_place.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <map>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/move.h"
#include "wedge/internal/place_file.h"

namespace wedge::internal {
namespace {

using base::find_stat;
using formats::Row;
using Change = RowChanges::Change;

bool is_below(const std::string& path, const std::string& directory) {
  return !directory.empty() && path.size() > directory.size() && path.starts_with(directory) &&
         path[directory.size()] == '/';
}

/// nullopt if it is not there, or something else is.
std::optional<base::UniqueFd> find_directory(int top, const std::string& path) {
  try {
    return base::open_beneath(top, path, O_RDONLY | O_DIRECTORY);
  } catch (const base::Error& error) {
    if (error.category() != base::Category::not_found && error.category() != base::Category::refused) throw;
    return std::nullopt;
  }
}

std::optional<struct stat> find_stat_below(int top, const std::string& path) {
  const auto [parent_path, name] = formats::split_path(path);
  const auto parent = find_directory(top, parent_path);
  return parent ? find_stat(parent->get(), name) : std::nullopt;
}

bool is_same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool is_time_of(const Row& row, const struct stat& info) {
  return info.st_mtim.tv_sec == row.mtime.seconds && info.st_mtim.tv_nsec == row.mtime.nanoseconds;
}

bool links_to(int parent, const std::string& name, const std::string& target) {
  std::string there(PATH_MAX, '\0');
  const ssize_t size = ::readlinkat(parent, name.c_str(), there.data(), there.size());
  // ENOENT, EINVAL: gone, or no symlink any more; either way it is not the one that sync made.
  if (size < 0 && errno != ENOENT && errno != EINVAL) base::throw_errno(name, errno);
  return size >= 0 && there.substr(0, static_cast<std::size_t>(size)) == target;
}

/// A plain user writes in a directory only if its mode says so.
void let_write(int directory) {
  struct stat info;
  if (::geteuid() != 0 && ::fstat(directory, &info) == 0 && (info.st_mode & S_IRWXU) != S_IRWXU)
    (void)::fchmod(directory,
                   (info.st_mode & 07777) | S_IRWXU);  // what follows will say if it was not enough
}

class TreeChanger {
 public:
  TreeChanger(int top, int work, const std::function<NextRow()>& before, const Fidelity& fidelity,
              StatCache* cache)
      : top_(top),
        work_(work),
        fresh_(base::ensure_directory(work, "new", 0700)),
        before_(before),
        fidelity_(fidelity),
        cache_(cache) {}

  std::vector<std::string> run(const NextRow& after) {
    RowChanges changes(before_(), [this](const Row& row) { take_out(row); });
    for (Row row; after(row);) {
      const auto change = changes.next(row);
      if (is_below(row.path, put_in_)) continue;  // came with it
      if (row.type == Row::Type::directory) {
        while (!inside_.empty() && inside_.back().path != "." && !is_below(row.path, inside_.back().path))
          inside_.pop_back();
        inside_.push_back(row);
      }
      if (change == Change::metadata) touched_.emplace(row.path, row);
      if (change == Change::made)
        base::named(formats::escape(row.path), [&] { put_in(row, changes.before()); });
    }
    changes.finish();
    for (auto path = removed_.rbegin(); path != removed_.rend(); ++path)
      base::named(formats::escape(*path), [&] { remove_directory(*path); });
    for (const auto& row : late_)
      base::named(formats::escape(row.path), [&, &late = row] { put_in(late, std::nullopt); });
    for (auto directory = touched_.rbegin(); directory != touched_.rend(); ++directory)
      base::named(formats::escape(directory->first), [&] { finish_directory(directory->second); });
    return std::move(left_);
  }

 private:
  void put_in(const Row& row, const std::optional<Row>& before) {
    const bool directory = row.type == Row::Type::directory;
    if (directory) put_in_ = row.path;  // all that lies below comes with it, or not at all
    const auto [parent_path, name] = formats::split_path(row.path);
    const auto parent = find_parent(parent_path);
    const auto staged = find_directory(fresh_.get(), parent_path);
    if (!parent || !staged || !find_stat(staged->get(), name)) return;  // moved in already
    if (const auto present = find_stat(parent->get(), name)) {
      if (before && before->type == Row::Type::directory && S_ISDIR(present->st_mode)) {
        removed_.push_back(row.path);
        late_.push_back(row);
        return;
      }
      const bool by_product = !before && is_by_product(row.path);
      if (!by_product && (!before || !is_as(*before, parent->get(), name, *present))) return leave(row.path);
      if (directory || by_product)
        move_out(parent->get(), row.path);
      else
        link_out(parent->get(), row.path, *present);
    }
    if (directory) touched_.emplace(row.path, row);
    const WritableTop writable(staged->get(), name);
    bool is_taken = false;
    const auto move = [&, &name = name, is_free = !find_stat(parent->get(), name)] {
      // What somebody made there meanwhile stays.
      if (is_free ? base::rename_to_free_name(staged->get(), name, parent->get(), name)
                  : ::renameat(staged->get(), name.c_str(), parent->get(), name.c_str()) == 0)
        return;
      if (!is_free || errno != EEXIST) base::throw_errno("move into place", errno);
      is_taken = true;
    };
    if (cache_ == nullptr || row.type == Row::Type::symlink || directory) {
      move();
    } else {
      const auto file = base::open_at(staged->get(), name, O_PATH | O_NOFOLLOW);
      cache_->keep_across(file.get(), move);
    }
    if (is_taken) leave(row.path);
  }

  void take_out(const Row& row) {
    base::named(formats::escape(row.path), [&] {
      const auto [parent_path, name] = formats::split_path(row.path);
      const auto parent = find_parent(parent_path);
      const auto present = parent ? find_stat(parent->get(), name) : std::nullopt;
      if (!present) return;
      if (row.type == Row::Type::directory && S_ISDIR(present->st_mode))
        removed_.push_back(row.path);
      else if (is_as(row, parent->get(), name, *present))
        move_out(parent->get(), row.path);
      else
        leave(row.path);
    });
  }

  /// After all that lay in it: what is left are by-products, or somebody else's.
  void remove_directory(const std::string& path) {
    const auto [parent_path, name] = formats::split_path(path);
    const auto parent = find_parent(parent_path);
    const auto directory = find_directory(top_, path);
    if (!parent || !directory) return;
    let_write(directory->get());
    for (const auto& below : base::list_directory(directory->get())) {
      const auto by_product = path + "/" + below;
      if (is_by_product(by_product)) move_out(directory->get(), by_product);
    }
    if (::unlinkat(parent->get(), name.c_str(), AT_REMOVEDIR) == 0) return;
    if (errno != ENOTEMPTY && errno != EEXIST) base::throw_errno("remove directory", errno);
    leave(path);  // somebody's files are in it: it stays, and the caller is told
  }

  void finish_directory(const Row& row) {
    const auto directory = find_directory(top_, row.path);
    if (!directory) return;
    let_write(directory->get());
    remove_other_xattrs(directory->get(), row, fidelity_);
    (void)set_metadata(directory->get(), row, fidelity_);
  }

  void leave(const std::string& path) { left_.push_back(path); }

  /// Whether what lies there is what `row` says: nobody has changed it since.
  bool is_as(const Row& row, int parent, const std::string& name, const struct stat& info) {
    switch (row.type) {
      case Row::Type::file:
        return S_ISREG(info.st_mode) && static_cast<std::uint64_t>(info.st_size) == row.size &&
               is_time_of(row, info);
      case Row::Type::symlink:
        return S_ISLNK(info.st_mode) && links_to(parent, name, row.target);
      case Row::Type::hard_link: {
        const auto target = linked().find(row.target);
        if (target == linked().end() || !is_as(target->second, parent, name, info)) return false;
        // It comes first, and may have been moved out meanwhile.
        const auto old = find_directory(work_, "old");
        const auto there = find_stat_below(top_, row.target),
                   gone = old ? find_stat_below(old->get(), row.target) : std::nullopt;
        if ((there && is_same_file(*there, info)) || (gone && is_same_file(*gone, info))) return true;
        // A crash may have taken the link that kept its target; then there is no more to compare with.
        return !gone && (!there || S_ISLNK(there->st_mode) || !is_as(target->second, parent, name, *there));
      }
      case Row::Type::directory:
        return S_ISDIR(info.st_mode);
      default:
        return !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode) && !S_ISLNK(info.st_mode);
    }
  }

  /// The rows of the tree as it was that others are links to.
  const std::map<std::string, Row>& linked() {
    if (linked_) return *linked_;
    linked_.emplace();
    Row row;
    for (const auto next = before_(); next(row);)
      if (row.type == Row::Type::hard_link) linked_->try_emplace(row.target);
    for (const auto next = before_(); !linked_->empty() && next(row);)
      if (const auto target = linked_->find(row.path); target != linked_->end()) target->second = row;
    return *linked_;
  }

  /// Where what is replaced or removed from that directory goes.
  base::UniqueFd open_old(const std::string& path) const {
    return ensure_beneath(base::ensure_directory(work_, "old", 0700).get(), path);
  }

  /// A directory of the tree in which something changes. It gets its metadata when all is done.
  std::optional<base::UniqueFd> find_parent(const std::string& path) {
    for (auto row = inside_.rbegin(); row != inside_.rend(); ++row)
      if (row->path == path) touched_.emplace(path, *row);
    auto directory = find_directory(top_, path);
    if (directory) let_write(directory->get());
    return directory;
  }

  void move_out(int parent, const std::string& path) {
    const auto [parent_path, name] = formats::split_path(path);
    const auto to = open_old(parent_path);
    move_path(parent, name, to.get(), find_stat(to.get(), name) ? base::random_name() : name);
  }

  /// Keeps a file that is about to be replaced, so that its path is never without one.
  void link_out(int parent, const std::string& path, const struct stat& present) {
    const auto [parent_path, name] = formats::split_path(path);
    const auto to = open_old(parent_path);
    const auto kept = find_stat(to.get(), name);
    if (kept && is_same_file(*kept, present)) return;
    if (kept || ::linkat(parent, name.c_str(), to.get(), name.c_str(), 0) != 0) move_out(parent, path);
  }

  int top_, work_;
  base::UniqueFd fresh_;
  const std::function<NextRow()>& before_;
  const Fidelity& fidelity_;
  StatCache* cache_;
  std::vector<Row> inside_;             ///< the directories the last row lies in, outermost first
  std::map<std::string, Row> touched_;  ///< directories to get their metadata; after all that is in them
  std::string put_in_;                  ///< the last directory
  std::vector<std::string> removed_;    ///< directories that go when they are empty
  std::vector<Row> late_;               ///< what takes the place of such a directory
  std::vector<std::string> left_;
  std::optional<std::map<std::string, Row>> linked_;
};

}  // namespace

RowChanges::RowChanges(NextRow before, std::function<void(const Row&)> on_removed)
    : rows_(std::move(before)), on_removed_(std::move(on_removed)) {
  advance();
}

void RowChanges::advance() {
  have_ = rows_(row_);
}

Change RowChanges::next(const Row& after) {
  while (have_ && formats::compare_paths(row_.path, after.path) < 0) {
    if (on_removed_) on_removed_(row_);
    advance();
  }
  before_.reset();
  if (have_ && row_.path == after.path) {
    before_ = std::move(row_);
    advance();
  }
  if (before_ == after && !(after.type == Row::Type::hard_link && made_.contains(after.target)))
    return Change::none;
  if (after.path == ".") return Change::metadata;
  if (after.type != Row::Type::directory)
    made_.insert(after.path);
  else if (before_ && before_->type == Row::Type::directory)
    return Change::metadata;
  return Change::made;
}

void RowChanges::finish() {
  while (have_) {
    if (on_removed_) on_removed_(row_);
    advance();
  }
}

std::vector<std::string> change_tree(int top, int work, const std::function<NextRow()>& before,
                                     const NextRow& after, const Fidelity& fidelity, StatCache* cache) {
  return TreeChanger(top, work, before, fidelity, cache).run(after);
}

}  // namespace wedge::internal
