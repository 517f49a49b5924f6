#include "wedge/wedge.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "wedge/internal/content_update.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/entry_key.h"
#include "wedge/internal/in_place.h"
#include "wedge/internal/place_file.h"
#include "wedge/internal/record.h"
#include "wedge/internal/walk.h"
#include "wedge/scanner.h"
#include "wedge/unpack.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;
using base::find_stat;
using base::ObjectId;
using formats::Row;
using internal::fidelity_of;
using internal::hash_content;
using internal::is_by_product;
using internal::key_of;
using internal::read_first;
using internal::read_rows;
using internal::reading;
using internal::recipe_of;
using internal::Record;
using internal::record_name;
using internal::RecordWriter;
using internal::root_of;
using internal::spool;
using internal::WritableTop;
using Outcome = SyncResult::Outcome;

constexpr const char* kPinned = "entry";   ///< in a workspace: a link to the file that changes in place
constexpr std::time_t kLongestWrite = 10;  ///< seconds
constexpr std::uint64_t kWorthATick = std::uint64_t{1} << 20;  ///< bytes

/// A row for a single file or image, as a record keeps it.
Row file_row(int dir, const std::string& name, const EntryRoot& root) {
  const auto info = find_stat(dir, name);
  if (!info) throw Error(Category::internal, "a file that was just written is gone");
  Row row;
  row.path = ".";
  row.mode = info->st_mode & 07777;
  row.mtime = {info->st_mtim.tv_sec, static_cast<std::uint32_t>(info->st_mtim.tv_nsec)};
  // A raw file may be about to be changed in place.
  row.size = root.is_qcow2() ? static_cast<std::uint64_t>(info->st_size) : root.size;
  if (root.blob && !root.is_qcow2()) row.blob = *root.blob;
  return row;
}

bool is_tree(const EntryRoot& root) {
  return root.type == EntryRoot::Type::tree || !root.unpack.empty();
}

}  // namespace

std::string_view to_string(Outcome outcome) noexcept {
  static constexpr const char* kNames[] = {"unchanged", "created", "updated",
                                           "adopted",   "removed", "blocked"};
  return kNames[static_cast<std::size_t>(outcome)];
}

std::string_view to_string(EntryStatus::State state) noexcept {
  static constexpr const char* kNames[] = {"clean", "missing", "outdated", "changed", "foreign"};
  return kNames[static_cast<std::size_t>(state)];
}

/// Has a source expect what will be read, as long as this lives.
class Expecting {
 public:
  Expecting(vat::BlobSource& source, const vat::Expected& expected) : source_(source) {
    source_.expect(expected);
  }
  ~Expecting() { source_.expect_nothing(); }
  Expecting(const Expecting&) = delete;
  Expecting& operator=(const Expecting&) = delete;

 private:
  vat::BlobSource& source_;
};

class Wedge::Impl {
 public:
  Impl(const std::string& path, bool read_only, StatCache* cache) : cache_(cache) {
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
    lock_ = base::open_at(state_.get(), "lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) base::throw_errno("lock", errno);
      throw Error(Category::busy, "wedge " + path + ": another sync is at work");
    }
    tmp_ = base::ensure_directory(state_.get(), "tmp", 0700);
    (void)::fremovexattr(tmp_.get(), "system.posix_acl_default");  // what is made there inherits nothing
    old_ = base::ensure_directory(state_.get(), "old", 0700);
    records_ = base::ensure_directory(state_.get(), "entries", 0700);
    recover();
  }

  SyncResult sync(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
                  const std::string& owner, const SyncOptions& options) {
    if (path == ".shrub" || path.starts_with(".shrub/"))
      throw Error(Category::refused, "no entry can have this name: the wedge keeps its state there");
    if (state_) forget_unfinished(path, options);
    const auto record = find_record(path);
    const auto key = key_of(root, options.fidelity);
    const auto [parent_path, name] = formats::split_path(path);
    auto parent = find_parent(parent_path);
    const auto there = parent ? find_stat(parent->get(), name) : std::nullopt;
    SyncResult result;
    std::vector<std::string> carried;
    bool intact = false, touched = false;
    if (there && is_unfinished(path, *there)) {
      result.outcome = Outcome::updated;
      return result;
    }
    if (there) {
      if (record) {
        intact = survey(path, *record, options, result.in_the_way, carried, touched);
        if (intact && record->key == key) return result;
      } else if (adopt(source, path, root, options, result.in_the_way)) {
        result.outcome = Outcome::adopted;
        if (!options.dry_run) write_record(path, owner, key, source, root, parent->get(), name);
        return result;
      }
      if (!result.in_the_way.empty() && !options.overwrite) {
        result.outcome = Outcome::blocked;
        return result;
      }
    }
    if (there) internal::refuse_mounts(top_.get(), path);
    result.in_the_way.clear();
    if (root.below && !stands(*root.below, source.object_format()))
      throw Error(Category::refused,
                  path + ": its overlay belongs on " + root.below->entry +
                      ", which is not in this wedge, or is of another image",
                  "sync both");
    remove_overlays(path, &root, options, result.in_the_way);
    if (!result.in_the_way.empty()) {
      result.outcome = Outcome::blocked;
      return result;
    }
    result.outcome = there ? Outcome::updated : Outcome::created;
    const auto reading = [&] { return reading_of(root, path, intact ? record : std::nullopt); };
    if (options.on_reading) options.on_reading(reading());
    if (options.dry_run) return result;

    const Expecting expecting(source, reading());
    if (!parent) parent = make_parent(parent_path);
    Record made{path, owner, key, 0, base::random_name(), source.object_format()};
    auto work = base::ensure_directory(tmp_.get(), made.workspace, 0700);
    // Extra paths move over as a whole, where none can get lost in what changes around it.
    if (intact && !touched && options.in_place &&
        std::all_of(carried.begin(), carried.end(), is_by_product) &&
        can_change_in_place(*record, root, options.fidelity, *there)) {
      auto changed = made;
      changed.in_place = true;
      changed.inode = there->st_ino;
      if (stage(source, root, options, *record, changed, work.get(), result.summary)) {
        wait_for_clock();
        for (const auto& left : settle(changed, false))
          result.in_the_way.push_back({Difference::Kind::content, left, {}});
        if (result.in_the_way.empty())
          remember_content(source, root, parent->get(), name);
        else
          result.outcome = Outcome::blocked;
        return result;
      }
    }
    {
      RecordWriter next(records_.get(), made, work.get());
      build(source, path, root, options, there && S_ISDIR(there->st_mode), work.get(), next, result.summary);
      for (const auto& extra : carried) carry(path, extra, work.get());
      if (next.top().type == Row::Type::directory && can_be_moved_with(next.top()))
        set_top(work.get(), "new", next.top(), options.fidelity);
      // Everything below is durable before the entry changes, and the record of what it will be before that.
      if (::syncfs(work.get()) != 0) base::throw_errno("sync", errno);
      next.publish(record_name(path) + ".next");
    }
    if (is_remembered(root)) wait_for_clock();
    swap_in(work.get(), parent->get(), name, there.has_value());
    base::sync_directory(parent->get());
    work.reset();
    (void)settle(made, false);
    return result;
  }

  SyncResult remove(const std::string& path, const SyncOptions& options) {
    if (state_) forget_unfinished(path, options);
    SyncResult result;
    const auto record = find_record(path);
    const auto [parent_path, name] = formats::split_path(path);
    const auto parent = look_for_parent(parent_path);
    result.outcome = Outcome::removed;
    if (parent && find_stat(parent->get(), name)) {
      std::vector<std::string> carried;
      bool touched = false;
      if (record) (void)survey(path, *record, options, result.in_the_way, carried, touched);
      if ((!result.in_the_way.empty() && !options.overwrite) || (!carried.empty() && options.keep_extra)) {
        result.outcome = Outcome::blocked;
        return result;
      }
      internal::refuse_mounts(top_.get(), path);
      result.in_the_way.clear();
      remove_overlays(path, nullptr, options, result.in_the_way);
      if (!result.in_the_way.empty()) {
        result.outcome = Outcome::blocked;
        return result;
      }
      if (options.dry_run) return result;
      discard_old(record_name(path));
      const WritableTop writable(parent->get(), name);
      if (::renameat(parent->get(), name.c_str(), old_.get(), record_name(path).c_str()) != 0)
        base::throw_errno(path, errno);
      base::sync_directory(parent->get());
    }
    result.in_the_way.clear();
    if (!options.dry_run) base::remove_tree(records_.get(), record_name(path) + ".state");
    return result;
  }

  EntryStatus status(const std::string& path, const EntryRoot& root, const SyncOptions& options) const {
    using State = EntryStatus::State;
    const auto record = find_record(path);
    const auto [parent_path, name] = formats::split_path(path);
    const auto parent = look_for_parent(parent_path);
    const auto there = parent ? find_stat(parent->get(), name) : std::nullopt;
    EntryStatus status;
    if (!there) {
      status.state = State::missing;
    } else if (is_unfinished(path, *there)) {
      status.state = State::outdated;
    } else if (!record) {
      status.state = State::foreign;
    } else if (survey(path, *record, options,
                      [&](const Difference& difference) {
                        const bool extra = difference.kind == Difference::Kind::extra;
                        if (!is_time(difference) && !(extra && is_by_product(difference.path)))
                          status.differences.push_back(difference);
                      });
               !status.differences.empty()) {
      status.state = State::changed;
    } else if (record->key != key_of(root, options.fidelity)) {
      status.state = State::outdated;
    }
    return status;
  }

  std::vector<std::string> entries(const std::string& owner) const {
    std::vector<std::string> paths;
    if (!records_) return paths;
    for (const auto& name : base::list_directory(records_.get())) {
      if (!name.ends_with(".state")) continue;
      const auto record = internal::read_record(records_.get(), name);
      if (record && record->owner == owner) paths.push_back(record->path);
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }

 private:
  /// nullopt if it does not exist; refused if something else stands there.
  std::optional<base::UniqueFd> find_parent(const std::string& path) const {
    if (!top_) return std::nullopt;
    try {
      return base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
    } catch (const Error& error) {
      if (error.category() == Category::not_found) return std::nullopt;
      throw;
    }
  }
  /// nullopt also if something else stands there.
  std::optional<base::UniqueFd> look_for_parent(const std::string& path) const {
    try {
      return find_parent(path);
    } catch (const Error& error) {
      if (error.category() != Category::refused) throw;
      return std::nullopt;
    }
  }

  base::UniqueFd make_parent(const std::string& path) const {
    auto at = base::open_at(top_.get(), ".", O_RDONLY | O_DIRECTORY);
    if (path == ".") return at;
    for (std::string_view rest = path; !rest.empty();) {
      const std::string name(base::take_field(rest, '/'));
      if (::mkdirat(at.get(), name.c_str(), 0777) != 0 && errno != EEXIST) base::throw_errno(path, errno);
      base::sync_directory(at.get());
      at = base::open_beneath(at.get(), name, O_RDONLY | O_DIRECTORY);
    }
    return at;
  }

  std::optional<Record> find_record(const std::string& path) const {
    return internal::read_sound_record(records_.get(), record_name(path) + ".state");
  }

  /// Whether the wedge holds what an overlay is to stand on.
  bool stands(const EntryRoot::Below& below, base::ObjectFormat format) const {
    const auto record = find_record(below.entry);
    return record && internal::content_of(record->key, format).recipe == below.recipe;
  }

  /// Before an image changes: overlays on what it was would show something else. Those that are made anew
  /// afterwards go; the others are in the way. `after`: what it will be;
  /// nullptr: gone.
  void remove_overlays(const std::string& path, const EntryRoot* after, const SyncOptions& options,
                       std::vector<Difference>& in_the_way) {
    const auto before = find_record(path);
    if (!before || !before->key.starts_with("image ")) return;
    const auto name = record_name(path);
    for (const auto& other : base::list_directory(records_.get())) {
      const auto record =
          other.ends_with(".state") ? internal::read_record(records_.get(), other) : std::nullopt;
      const auto stand = record ? internal::stand_of(record->key, record->format) : std::nullopt;
      if (!stand || stand->record != name) continue;
      if (after != nullptr && after->recipe == stand->recipe && after->is_qcow2() == stand->is_qcow2)
        continue;
      if (!options.is_next || !options.is_next(record->path))
        throw Error(Category::refused, path + ": " + record->path + " is an overlay on it", "sync both");
      for (auto& difference : remove(record->path, options).in_the_way) {
        difference.detail = record->path + " stands on this, and was changed";
        in_the_way.push_back(std::move(difference));
      }
    }
  }

  bool can_change_in_place(const Record& record, const EntryRoot& root, const Fidelity& fidelity,
                           const struct stat& there) const {
    if (!is_tree(root))
      return root.recipe && !root.is_qcow2() && recipe_of(record.key, root.recipe->format()) &&
             S_ISREG(there.st_mode);
    struct stat workspace;
    return root.unpack.empty() && record.key.starts_with("tree ") && S_ISDIR(there.st_mode) &&
           fidelity_of(record.key) == fidelity && ::fstat(tmp_.get(), &workspace) == 0 &&
           workspace.st_dev == there.st_dev;
  }

  /// Makes in `work` what changes, and announces it; nothing in the entry changes yet. False, and nothing
  /// done, if the entry does not allow it.
  bool stage(vat::BlobSource& source, const EntryRoot& root, const SyncOptions& options, const Record& record,
             const Record& made, int work, WriteSummary& summary) const {
    RecordWriter next(records_.get(), made, -1);
    if (is_tree(root))
      stage_tree(source, root, options, made, work, next, summary);
    else if (!stage_content(source, root, record, made, work, next, summary))
      return false;
    if (::syncfs(work) != 0) base::throw_errno("sync", errno);
    next.publish(record_name(made.path) + ".next");
    return true;
  }

  void stage_tree(vat::BlobSource& source, const EntryRoot& root, const SyncOptions& options,
                  const Record& made, int work, RecordWriter& next, WriteSummary& summary) const {
    internal::RowChanges changes(read_rows(records_.get(), record_name(made.path) + ".state"));
    const auto top = base::open_beneath(top_.get(), made.path, O_RDONLY | O_DIRECTORY);
    auto write = write_options(options, top.get(), next);
    write.is_there = [&](const Row& row) { return changes.next(row) != internal::RowChanges::Change::made; };
    summary = write_tree(source, *root.manifest, *root.layout, work, "new", write);
  }

  bool stage_content(vat::BlobSource& source, const EntryRoot& root, const Record& record, const Record& made,
                     int work, RecordWriter& next, WriteSummary& summary) const {
    const auto [parent_path, name] = formats::split_path(made.path);
    const auto parent = base::open_beneath(top_.get(), parent_path, O_RDONLY | O_DIRECTORY);
    base::UniqueFd fd;
    try {
      fd = base::open_at(parent.get(), name, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
    } catch (const Error&) {
      return false;  // read only, or a program that runs
    }
    // The link makes sure that nothing else gets the inode's number. Nothing is ever set on a file that
    // somebody else has linked.
    bool pinned = false;
    const auto pin = [&, &entry = name] {
      pinned = ::linkat(parent.get(), entry.c_str(), work, kPinned, 0) == 0;
    };
    cache_ != nullptr ? cache_->keep_across(fd.get(), pin) : pin();
    struct stat info, staged;
    if (!pinned || ::fstat(fd.get(), &info) != 0 || info.st_nlink != 2) return false;
    summary.files = summary.reused_files = 1;
    summary.fetched_size =
        internal::stage_content(source, content_update(source, record, root, fd.get()), fd.get(), work);
    if (::fstat(fd.get(), &staged) != 0 || state_of(staged) != state_of(info))
      throw Error(Category::refused, "was changed while its update was made", "sync again");
    auto row = file_row(parent.get(), name, root);
    timespec now{};
    (void)::clock_gettime(CLOCK_REALTIME, &now);
    row.mtime = {now.tv_sec, static_cast<std::uint32_t>(now.tv_nsec)};
    next.add(row);
    return true;
  }

  /// Puts in place what was staged. May be interrupted and run again at any point. Returns what was left as
  /// it is because it is no longer what sync made.
  std::vector<std::string> carry_out(const Record& made, int work, bool again) const {
    const auto name = record_name(made.path);
    const auto after = read_first(records_.get(), name + ".next");
    if (!after) throw Error(Category::local, "the record of what was under way is not readable");
    if (after->type != Row::Type::directory) return carry_out_content(made, *after, work, again);
    const auto top = base::open_beneath(top_.get(), made.path, O_RDONLY | O_DIRECTORY);
    const std::function<NextRow()> before = [&] { return read_rows(records_.get(), name + ".state"); };
    auto left = internal::change_tree(top.get(), work, before, read_rows(records_.get(), name + ".next"),
                                      fidelity_of(made.key), cache_);
    if (::syncfs(top.get()) != 0) base::throw_errno("sync", errno);
    return left;
  }

  std::vector<std::string> carry_out_content(const Record& made, const Row& after, int work,
                                             bool again) const {
    const auto name = record_name(made.path);
    const auto before = read_first(records_.get(), name + ".state");
    const auto [parent_path, entry] = formats::split_path(made.path);
    const auto parent = base::open_beneath(top_.get(), parent_path, O_RDONLY | O_DIRECTORY);
    const auto pinned = find_stat(work, kPinned), there = find_stat(parent.get(), entry),
               extents = find_stat(work, "extents");
    const auto is_time_of = [&](const std::optional<Row>& row) {
      return row && there->st_mtim.tv_sec == row->mtime.seconds &&
             there->st_mtim.tv_nsec == row->mtime.nanoseconds;
    };
    if (!pinned || !there || !extents || pinned->st_ino != there->st_ino || there->st_nlink != 2)
      return {"."};
    // An earlier run wrote after `after` was made and not long after it set the time of the extents.
    const bool ours = is_time_of(after) || (there->st_mtim.tv_sec >= after.mtime.seconds - 1 &&
                                            there->st_mtim.tv_sec <= extents->st_mtim.tv_sec + kLongestWrite);
    if (!is_time_of(before) && !(again && ours)) return {"."};
    const auto fd = base::open_at(parent.get(), entry, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
    internal::apply_content(work, fd.get(), after.size);
    const timespec time{after.mtime.seconds, after.mtime.nanoseconds};
    const timespec times[] = {time, time};
    if (::futimens(fd.get(), times) != 0) base::throw_errno("set time", errno);
    base::sync_file(fd.get());
    discard_old(name);  // what was overwritten is nowhere
    return {};
  }

  /// After a change in place: what a file holds now was proven.
  void remember_content(vat::BlobSource& source, const EntryRoot& root, int parent,
                        const std::string& name) const {
    const auto info = find_stat(parent, name);
    if (cache_ == nullptr || is_tree(root) || !info) return;
    auto known = known_content(source, root.blob, root.recipe);
    known.sparse = info->st_blocks * 512 < info->st_size;
    wait_for_clock();
    cache_->put(state_of(*info), known, StatCache::now());
  }

  /// After the exchange: finishes the top of the new entry, keeps the previous state under old/, makes the
  /// record the current one. May be interrupted and run again at any point: `again`. Returns what carry_out()
  /// left.
  std::vector<std::string> settle(const Record& made, bool again) const {
    const auto name = record_name(made.path);
    const auto work = base::find_open_at(tmp_.get(), made.workspace, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    std::vector<std::string> left;
    const auto keep = [&](const char* previous) {
      if (!find_stat(work->get(), previous)) return;
      discard_old(name);
      const WritableTop writable(work->get(), previous);
      if (::renameat(work->get(), previous, old_.get(), name.c_str()) != 0)
        base::throw_errno("keep the old " + made.path, errno);
    };
    if (!made.in_place) finish_top(made);
    if (made.in_place && work) left = carry_out(made, work->get(), again);
    if (!made.in_place && work) keep("new");
    if (work) keep("old");
    base::sync_directory(old_.get());
    if (::renameat(records_.get(), (name + ".next").c_str(), records_.get(), (name + ".state").c_str()) != 0)
      base::throw_errno("record of " + made.path, errno);
    base::sync_directory(records_.get());
    base::remove_tree(tmp_.get(), made.workspace);
    return left;
  }

  /// Whether a sync was ended while it changed the entry in place.
  bool is_unfinished(const std::string& path, const struct stat& there) const {
    const auto next = internal::read_record(records_.get(), record_name(path) + ".next");
    return next && next->in_place && next->inode == there.st_ino;
  }

  /// What could not be finished stops its own entry only, and is given up if the entry is to be replaced.
  void forget_unfinished(const std::string& path, const SyncOptions& options) {
    const auto unfinished = unfinished_.find(path);
    if (unfinished == unfinished_.end()) return;
    if (!options.overwrite)
      throw Error(Category::refused,
                  std::string("a sync that was interrupted cannot be finished: ") + unfinished->second.what(),
                  "mend that, or let --overwrite replace the entry as a whole");
    for (const auto* suffix : {".next", ".state"})
      base::remove_tree(records_.get(), record_name(path) + suffix);
    unfinished_.erase(unfinished);
  }

  /// Removes the previous state of an entry. What it shares with the present one stays known.
  void discard_old(const std::string& name) const {
    const auto info = cache_ != nullptr ? find_stat(old_.get(), name) : std::nullopt;
    if (info && S_ISDIR(info->st_mode)) {
      const auto top = base::open_beneath(old_.get(), name, O_RDONLY | O_DIRECTORY);
      internal::Walk walk(
          top.get(), [](const auto&) { return true; }, [](const auto&, const auto&) {});
      while (const auto entry = walk.next()) {
        struct stat file;
        const auto parent = internal::Walk::open_parent(top.get(), *entry);
        const auto below = entry->name();
        if (entry->type != DT_REG ||
            ::fstatat(parent->get(), below.c_str(), &file, AT_SYMLINK_NOFOLLOW) != 0 || file.st_nlink < 2)
          continue;
        const auto handle = base::find_open_at(parent->get(), below, O_PATH | O_NOFOLLOW);
        if (handle)
          cache_->keep_across(handle->get(), [&] { (void)::unlinkat(parent->get(), below.c_str(), 0); });
      }
    }
    base::remove_tree(old_.get(), name);
  }

  /// Reading a small file again costs less than a tick of the clock.
  bool is_remembered(const EntryRoot& root) const {
    return cache_ != nullptr && !root.is_qcow2() && (is_tree(root) || root.size >= kWorthATick);
  }

  /// Until now nobody else could change the files that were made; whoever does from here on leaves another
  /// ctime than the cache has.
  void wait_for_clock() const {
    if (cache_ == nullptr) return;
    const auto made = StatCache::now();
    while (StatCache::now() <= made) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  /// A directory can only be moved by who may write it; one that says otherwise gets its mode when it lies in
  /// place.
  static bool can_be_moved_with(const Row& top) { return ::geteuid() == 0 || (top.mode & S_IWUSR) != 0; }

  static void set_top(int parent, const std::string& path, const Row& top, const Fidelity& fidelity) {
    const auto dir = base::open_beneath(parent, path, O_RDONLY | O_DIRECTORY);
    (void)internal::set_metadata(dir.get(), top, fidelity);
  }

  void finish_top(const Record& made) const {
    // Some file systems (xfs) change the time of a directory that is moved.
    const auto top = read_first(records_.get(), record_name(made.path) + ".next");
    if (top && top->type == Row::Type::directory) set_top(top_.get(), made.path, *top, fidelity_of(made.key));
  }

  /// Finishes or forgets what a killed sync left. An entry whose top is the one announced was exchanged
  /// already; one that is gone while its old state lies in the workspace was caught between two renames and
  /// is put back.
  void recover() {
    base::remove_leftovers(records_.get());
    std::set<std::string> needed;
    for (const auto& name : base::list_directory(records_.get())) {
      if (!name.ends_with(".next")) continue;
      const auto record = internal::read_record(records_.get(), name);
      if (record && formats::is_safe_path(record->path)) {
        const auto [parent_path, entry] = formats::split_path(record->path);
        const auto parent = look_for_parent(parent_path);
        const auto info = parent ? find_stat(parent->get(), entry) : std::nullopt;
        if (info && info->st_ino == record->inode) {  // exchanged already, or to be changed in place
          try {
            (void)settle(*record, true);
          } catch (const Error& error) {
            unfinished_.emplace(record->path, error);
            needed.insert(record->workspace);
          }
          continue;
        }
        if (parent && !info && !record->in_place) {
          const auto work =
              base::find_open_at(tmp_.get(), record->workspace, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
          if (work && find_stat(work->get(), "old")) {
            const WritableTop writable(work->get(), "old");
            if (::renameat2(work->get(), "old", parent->get(), entry.c_str(), RENAME_NOREPLACE) != 0)
              base::throw_errno("put back " + record->path, errno);
            base::sync_directory(parent->get());
          }
        }
      }
      if (::unlinkat(records_.get(), name.c_str(), 0) != 0) base::throw_errno(name, errno);
    }
    for (const auto& name : base::list_directory(tmp_.get()))
      if (!needed.contains(name)) base::remove_tree(tmp_.get(), name);
  }

  /// Compares an entry with what was made. True if nothing differs. Differences that may not be lost go to
  /// `in_the_way`, extra paths that move over to `carried`. `touched`: some file has another time, but the
  /// content it had.
  bool survey(const std::string& path, const Record& record, const SyncOptions& options,
              std::vector<Difference>& in_the_way, std::vector<std::string>& carried, bool& touched) const {
    bool intact = true;
    const bool readable = survey(path, record, options, [&](const Difference& difference) {
      if (is_time(difference)) {
        touched = touched || !is_directory(difference.path == "." ? path : path + "/" + difference.path);
        return;
      }
      const bool extra = difference.kind == Difference::Kind::extra;
      if (extra && (options.keep_extra || is_by_product(difference.path))) {
        carried.push_back(difference.path);
        return;
      }
      intact = false;
      if (difference.kind != Difference::Kind::missing) in_the_way.push_back(difference);
    });
    return readable && intact;
  }

  /// False if the record says nothing.
  bool survey(const std::string& path, const Record& record, const SyncOptions& options,
              const std::function<void(const Difference&)>& note) const {
    const auto [parent_path, name] = formats::split_path(path);
    const auto parent = base::open_beneath(top_.get(), parent_path, O_RDONLY | O_DIRECTORY);
    const auto info = find_stat(parent.get(), name);
    const auto first = read_first(records_.get(), record_name(path) + ".state");
    if (!first) return false;
    if (first->type == Row::Type::file) {
      if (!S_ISREG(info->st_mode))
        note({Difference::Kind::type, ".", {}});
      else if (!is_as_made(parent.get(), name, *info, *first, record, options.spot_check))
        note({Difference::Kind::content, ".", {}});
      return true;
    }
    if (!S_ISDIR(info->st_mode)) {
      note({Difference::Kind::type, ".", {}});
      return true;
    }
    const auto top = base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
    CompareOptions compare;
    compare.threads = options.threads;
    compare.read_content = cache_ != nullptr;
    compare.cache = cache_;
    compare.spot_check = options.spot_check;
    const auto made = fidelity_of(record.key);
    compare.fidelity = {options.fidelity.owners && made.owners, options.fidelity.acls && made.acls,
                        made.fifos, made.devices};
    const auto next = read_rows(records_.get(), record_name(path) + ".state");
    (void)compare_tree(top.get(), record.format, next, compare, note);
    return true;
  }

  /// Whether an entry that is a file still is what `made` says.
  bool is_as_made(int parent, const std::string& name, const struct stat& info, const Row& made,
                  const Record& record, const SpotCheck& spot_check) const {
    if (static_cast<std::uint64_t>(info.st_size) != made.size || info.st_mtim.tv_sec != made.mtime.seconds ||
        info.st_mtim.tv_nsec != made.mtime.nanoseconds)
      return false;
    const bool has_id = made.blob != ObjectId();  // images need not have one
    if (cache_ == nullptr || !has_id) return true;
    const auto state = state_of(info);
    const auto known = cache_->find(state);
    if (known && known->blob && !spot_check.is_due(state)) return *known->blob == made.blob;
    const auto read_since = StatCache::now();
    const auto fd = base::open_at(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (hash_content(fd.get(), record.format, made.size) != made.blob) return false;
    KnownFile fresh = known.value_or(KnownFile());
    fresh.blob = made.blob;
    struct stat after;
    if (::fstat(fd.get(), &after) == 0 && state_of(after) == state) cache_->put(state, fresh, read_since);
    return true;
  }

  /// Whether what lies at `path`, which no sync made, already is what `root` says.
  bool adopt(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
             const SyncOptions& options, std::vector<Difference>& in_the_way) const {
    CompareOptions compare;
    compare.threads = options.threads;
    compare.cache = cache_;
    compare.fidelity = options.fidelity;
    const auto count = verify(source, path, root, compare, [&](const Difference& difference) {
      if (difference.kind != Difference::Kind::missing) in_the_way.push_back(difference);
    });
    if (count > 0 && is_empty_directory(path)) in_the_way.clear();
    return count == 0;
  }

  /// By-products and kept paths change the time of the directory they lie in.
  static bool is_time(const Difference& difference) {
    return difference.kind == Difference::Kind::metadata && difference.detail == "time";
  }

  bool is_directory(const std::string& path) const {
    try {
      (void)base::open_beneath(top_.get(), path, O_PATH | O_DIRECTORY);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  bool is_empty_directory(const std::string& path) const {
    try {
      const auto dir = base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
      return base::list_directory(dir.get()).empty();
    } catch (const Error&) {
      return false;
    }
  }

 public:
  std::uint64_t verify(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
                       const CompareOptions& options,
                       const std::function<void(const Difference&)>& on_difference) const;

 private:
  /// From what `record` says of the file of `fd` to `root`; both have recipes.
  internal::ContentUpdate content_update(vat::BlobSource& source, const Record& record, const EntryRoot& root,
                                         int fd) const {
    struct stat info;
    if (::fstat(fd, &info) != 0) base::throw_errno("stat", errno);
    const auto before = recipe_of(record.key, root.recipe->format());
    const auto known = cache_ != nullptr ? cache_->find(state_of(info)) : std::nullopt;
    check_recipe(source, *root.recipe, root.blob, root.size);
    return {*before, *root.recipe, known && known->recipe == before};
  }

  /// What making the entry will read; `record`: of what lies there untouched.
  [[nodiscard]] vat::Expected reading_of(const EntryRoot& root, const std::string& path,
                                         const std::optional<Record>& record) const {
    vat::Expected reading{root.content(), {}, {}, true};
    if (!record) return reading;
    if (auto base = root_of(record->key, record->format);
        base && !root.is_qcow2() && base->manifest.has_value() == root.manifest.has_value())
      reading.base = std::move(base);
    if (!root.manifest || !record->key.starts_with("tree ")) return reading;
    auto changes = std::make_shared<internal::RowChanges>(
        read_rows(records_.get(), record_name(path) + ".state"));  // shared: with copies
    reading.is_read = [changes](const Row& row) {
      return changes->next(row) == internal::RowChanges::Change::made;
    };
    return reading;
  }

  WriteOptions write_options(const SyncOptions& options, int reuse_top, RecordWriter& record) const {
    WriteOptions write;
    write.threads = options.threads;
    write.fidelity = options.fidelity;
    write.reuse_top = reuse_top;
    write.cache = cache_;
    write.progress = options.progress;
    write.on_row = [&](const Row& row) { record.add(row); };
    return write;
  }

  /// Makes "new" from the present file by a reflink and what has changed. False if that cannot be done: it is
  /// no file of ours, or the file system has no reflinks.
  bool clone_content(vat::BlobSource& source, const std::string& path, const EntryRoot& root, int work,
                     WriteSummary& summary) const {
    const auto record = find_record(path);
    if (!record || !root.recipe || root.is_qcow2() || !recipe_of(record->key, root.recipe->format()))
      return false;
    const auto [parent_path, name] = formats::split_path(path);
    const auto parent = look_for_parent(parent_path);
    const auto old = parent ? base::find_regular_at(parent->get(), name) : std::nullopt;
    if (!old) return false;
    const auto update = content_update(source, *record, root, old->get());
    auto fd = base::open_at(work, "new", O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
    if (::ioctl(fd.get(), FICLONE, old->get()) != 0) {
      if (::unlinkat(work, "new", 0) != 0) base::throw_errno("remove", errno);
      return false;
    }
    summary.fetched_size = internal::update_content(source, update, fd.get());
    summary.reused_files = 1;
    fd.close();
    return true;
  }

  void build(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
             const SyncOptions& options, bool old_is_directory, int work, RecordWriter& record,
             WriteSummary& summary) const {
    if (!is_tree(root)) {
      summary.files = 1;
      if (root.is_qcow2())
        summary.fetched_size =
            internal::write_image_as_qcow2(source, root, path, work, "new", options.progress);
      else if (!clone_content(source, path, root, work, summary))
        summary.fetched_size =
            write_content(source, root.blob, root.recipe, root.size, root.type == EntryRoot::Type::image,
                          work, "new", options.progress);
      if (is_remembered(root)) {
        const auto info = find_stat(work, "new");
        auto known = known_content(source, root.blob, root.recipe);
        known.sparse = info->st_blocks * 512 < info->st_size;
        cache_->put(state_of(*info), known, StatCache::kUnshared);
      }
      return record.add(file_row(work, "new", root));
    }
    base::UniqueFd old;
    if (old_is_directory) old = base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
    const auto write = write_options(options, old ? old.get() : -1, record);
    if (!root.unpack.empty()) {
      const auto archive = spool(source, root, tmp_.get());
      summary =
          unpack_archive(reading(archive.get()), root.unpack, source.object_format(), work, "new", write);
      return;
    }
    summary = write_tree(source, *root.manifest, *root.layout, work, "new", write);
  }

  [[noreturn]] static void refuse_to_carry(const std::string& extra) {
    throw Error(Category::refused,
                "extra path " + formats::escape(extra) + ": its directory is not in the new tree");
  }

  /// Takes an extra path of the old entry over into the new one: files by hard link, so that the old tree
  /// stays whole.
  void carry(const std::string& path, const std::string& extra, int work) const {
    const auto old = base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
    const auto fresh = base::open_beneath(work, "new", O_RDONLY | O_DIRECTORY);
    const auto [parent_path, name] = formats::split_path(extra);
    const auto from = base::open_beneath(old.get(), parent_path, O_RDONLY | O_DIRECTORY);
    base::UniqueFd to;
    try {
      to = base::open_beneath(fresh.get(), parent_path, O_RDONLY | O_DIRECTORY);
    } catch (const Error&) {
      if (is_by_product(extra)) return;  // the directory it was a by-product of is gone
      refuse_to_carry(extra);
    }
    const auto info = find_stat(from.get(), name);
    if (!info) return;
    if (S_ISDIR(info->st_mode)) {
      if (::mkdirat(to.get(), name.c_str(), info->st_mode & 07777) != 0 && errno != EEXIST)
        base::throw_errno(extra, errno);
    } else if (::linkat(from.get(), name.c_str(), to.get(), name.c_str(), 0) != 0 && errno != EEXIST) {
      base::throw_errno(extra, errno);
    }
  }

  void swap_in(int work, int parent, const std::string& name, bool there) const {
    std::optional<WritableTop> writable;
    if (there) writable.emplace(parent, name);
    const unsigned flags = there ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    if (::renameat2(work, "new", parent, name.c_str(), flags) == 0) return;
    if (errno == EXDEV)
      throw Error(Category::local, name + ": is on another file system than the wedge",
                  "do not mount over parts of a wedge");
    if (errno != EINVAL && errno != ENOSYS) base::throw_errno(name, errno);
    // No exchange on this file system: two renames. recover() puts the old state back if they are not both
    // done.
    if (there && ::renameat(parent, name.c_str(), work, "old") != 0) base::throw_errno(name, errno);
    if (::renameat(work, "new", parent, name.c_str()) != 0) base::throw_errno(name, errno);
  }

  void write_record(const std::string& path, const std::string& owner, const std::string& key,
                    vat::BlobSource& source, const EntryRoot& root, int parent,
                    const std::string& name) const {
    RecordWriter record(records_.get(),
                        {path, owner, key, find_stat(parent, name)->st_ino, {}, source.object_format()}, -1);
    if (!root.unpack.empty()) {
      const auto archive = spool(source, root, tmp_.get());
      list_archive(reading(archive.get()), root.unpack, source.object_format(),
                   [&](const Row& row) { record.add(row); });
    } else if (is_tree(root)) {
      auto reader = read_manifest(source, *root.manifest);
      for (Row row; reader.next(row);) record.add(row);
    } else {
      record.add(file_row(parent, name, root));
    }
    record.publish(record_name(path) + ".state");
  }

  StatCache* const cache_;
  base::UniqueFd top_, state_, lock_, tmp_, old_, records_;
  std::map<std::string, Error> unfinished_;  ///< entries whose interrupted change could not be finished
};

std::uint64_t Wedge::Impl::verify(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
                                  const CompareOptions& options,
                                  const std::function<void(const Difference&)>& on_difference) const {
  return internal::verify_below(source, top_.get(), path, root, options, on_difference);
}

Wedge::Wedge(const std::string& path, bool read_only, StatCache* cache)
    : impl_(std::make_unique<Impl>(path, read_only, cache)) {}
Wedge::~Wedge() = default;

SyncResult Wedge::sync(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
                       const std::string& owner, const SyncOptions& options) {
  return base::named(path, [&] { return impl_->sync(source, path, root, owner, options); });
}

EntryStatus Wedge::status(const std::string& path, const EntryRoot& root, const SyncOptions& options) const {
  return base::named(path, [&] { return impl_->status(path, root, options); });
}

SyncResult Wedge::remove(const std::string& path, const SyncOptions& options) {
  return base::named(path, [&] { return impl_->remove(path, options); });
}

std::vector<std::string> Wedge::entries(const std::string& owner) const {
  return impl_->entries(owner);
}

std::uint64_t verify_entry(vat::BlobSource& source, const std::string& wedge, const std::string& path,
                           const EntryRoot& root, const CompareOptions& options,
                           const std::function<void(const Difference&)>& on_difference) {
  const auto top = base::open_directory(AT_FDCWD, wedge);
  return base::named(
      path, [&] { return internal::verify_below(source, top.get(), path, root, options, on_difference); });
}

}  // namespace wedge
