#include "wedge/internal/entry_maker.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <map>
#include <memory>
#include <set>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "wedge/git_tree.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/entry_key.h"
#include "wedge/internal/in_place.h"
#include "wedge/internal/kept.h"
#include "wedge/internal/move.h"
#include "wedge/internal/place_file.h"
#include "wedge/internal/settle.h"
#include "wedge/unpack.h"

namespace wedge::internal {

using base::Category;
using base::Error;
using base::find_stat;
using formats::Row;

namespace {

constexpr std::uint64_t kWorthATick = std::uint64_t{1} << 20;  ///< bytes

struct stat stat_of(int dir, const std::string& name) {
  const auto info = find_stat(dir, name);
  if (!info) throw Error(Category::local, name + ": is gone although nobody else should change it");
  return *info;
}

/// Whoever may read the file may run it; false if the file system keeps no such mode.
bool set_mode(int work, const EntryRoot& root, const Fidelity& fidelity) {
  constexpr const char* kProbe = "mode";  // what the umask leaves of 0666
  base::open_at(work, kProbe, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666).close();
  auto mode = stat_of(work, kProbe).st_mode & 07777;
  if (::unlinkat(work, kProbe, 0) != 0) base::throw_errno("remove", errno);
  if (root.executable) mode |= mode >> 2 & 0111;
  if (fidelity.shared) mode |= (mode & S_IRWXU) >> 3;
  if (::fchmodat(work, "new", mode, 0) != 0 && errno != EPERM && errno != EOPNOTSUPP)
    base::throw_errno("change mode", errno);
  return !root.executable || (stat_of(work, "new").st_mode & S_IXUSR) != 0;
}

/// A row for a single file or image, as a record keeps it.
Row file_row(int dir, const std::string& name, const EntryRoot& root) {
  const auto info = stat_of(dir, name);
  Row row;
  row.path = ".";
  row.mode = info.st_mode & 07777;
  row.mtime = {info.st_mtim.tv_sec, static_cast<std::uint32_t>(info.st_mtim.tv_nsec)};
  // A raw file may be about to be changed in place.
  row.size = root.is_qcow2() ? static_cast<std::uint64_t>(info.st_size) : root.size;
  if (root.blob && !root.is_qcow2()) row.blob = *root.blob;
  return row;
}

/// Whether what lies at `path` below `top` is of the type, content or target of the row.
bool is_alike(int top, const std::string& path, const Row& row, base::ObjectFormat format) {
  const auto [parent_path, name] = formats::split_path(path);
  const auto parent = base::open_beneath(top, parent_path, O_RDONLY | O_DIRECTORY);
  const auto info = find_stat(parent.get(), name);
  if (!info) return true;  // gone meanwhile
  switch (row.type) {
    case Row::Type::directory:
      return S_ISDIR(info->st_mode);
    case Row::Type::file:
      return S_ISREG(info->st_mode) && static_cast<std::uint64_t>(info->st_size) == row.size &&
             hash_content(base::open_at(parent.get(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).get(), format,
                          row.size) == row.blob;
    case Row::Type::symlink: {
      std::string target(row.target.size() + 1, '\0');
      const ssize_t size = S_ISLNK(info->st_mode)
                               ? ::readlinkat(parent.get(), name.c_str(), target.data(), target.size())
                               : -1;
      return size >= 0 && target.substr(0, static_cast<std::size_t>(size)) == row.target;
    }
    case Row::Type::fifo:
      return S_ISFIFO(info->st_mode);
    default:  // devices are rare enough
      return false;
  }
}

}  // namespace

vat::Expected EntryMaker::reading(const std::optional<Record>& untouched) const {
  vat::Expected reading{root_.content(), {}, {}, true};
  if (!untouched) return reading;
  if (auto base = root_of(untouched->key, untouched->format);
      base && !root_.is_qcow2() && base->manifest.has_value() == root_.manifest.has_value())
    reading.base = std::move(base);
  if (!root_.manifest || !untouched->key.starts_with("tree ")) return reading;
  auto changes = std::make_shared<RowChanges>(
      read_rows(dir_.records(), record_name(path_) + ".state"));  // shared: with copies
  reading.is_read = [changes](const Row& row) { return changes->next(row) == RowChanges::Change::made; };
  return reading;
}

WriteSummary EntryMaker::build(int work, bool is_there, RecordWriter& record) const {
  if (is_tree(root_)) {
    base::UniqueFd old;
    if (is_there) old = base::open_beneath(dir_.top(), path_, O_RDONLY | O_DIRECTORY);
    const auto write = write_options(old ? old.get() : -1, record);
    if (root_.unpack.empty()) return write_tree(source_, *root_.manifest, *root_.layout, work, "new", write);
    const auto archive = spool(source_, root_, scratch());
    return unpack_archive(internal::reading(archive.get()), root_.unpack, source_.object_format(),
                          max_holes(), work, "new", write);
  }
  WriteSummary summary;
  summary.files = 1;
  if (root_.is_qcow2()) {
    summary.fetched_size = write_image_as_qcow2(source_, root_, path_, work, "new", options_.progress);
  } else if (const auto cloned = clone_content(work)) {
    summary.fetched_size = *cloned;
    summary.reused_files = 1;
  } else {
    summary.fetched_size =
        write_content(source_, root_.blob, root_.recipe, root_.size, root_.type == EntryRoot::Type::image,
                      work, "new", options_.progress);
  }
  if (!set_mode(work, root_, options_.fidelity)) ++summary.kept_otherwise;
  if (is_remembered()) {
    const auto info = stat_of(work, "new");
    dir_.cache()->put(state_of(info), {work, "new"}, known(info), StatCache::kUnshared);
  }
  record.add(file_row(work, "new", root_));
  return summary;
}

/// Makes "new" from the present file by a reflink and what has changed; returns how many bytes that was.
/// nullopt if it cannot be done: it is no file of ours, or the file system has no reflinks.
std::optional<std::uint64_t> EntryMaker::clone_content(int work) const {
  const auto record = dir_.find_record(path_);
  if (!record || !root_.recipe || root_.is_qcow2() || !recipe_of(record->key, root_.recipe->format()))
    return std::nullopt;
  const auto [parent_path, name] = formats::split_path(path_);
  const auto parent = dir_.look_for_parent(parent_path);
  const auto old = parent ? base::find_regular_at(parent->get(), name) : std::nullopt;
  if (!old) return std::nullopt;
  const auto update = content_update(*record, old->get());
  auto fd = base::open_at(work, "new", O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (::ioctl(fd.get(), FICLONE, old->get()) != 0) {
    if (::unlinkat(work, "new", 0) != 0) base::throw_errno("remove", errno);
    return std::nullopt;
  }
  const auto written = update_content(source_, update, fd.get());
  fd.close();
  return written;
}

/// From what `record` says of the file of `fd` to the root; both have recipes.
ContentUpdate EntryMaker::content_update(const Record& record, int fd) const {
  struct stat info;
  if (::fstat(fd, &info) != 0) base::throw_errno("stat", errno);
  const auto before = recipe_of(record.key, root_.recipe->format());
  const auto known = dir_.cache() != nullptr ? dir_.cache()->find(state_of(info), {fd}) : std::nullopt;
  check_recipe(source_, *root_.recipe, root_.blob, root_.size);
  return {*before, *root_.recipe, known && known->recipe == before};
}

WriteOptions EntryMaker::write_options(int reuse_top, RecordWriter& record) const {
  WriteOptions write;
  write.threads = options_.threads;
  write.fidelity = options_.fidelity;
  write.reuse_top = reuse_top;
  write.cache = dir_.cache();
  write.progress = options_.progress;
  write.on_row = [&](const Row& row) { record.add(row); };
  return write;
}

std::vector<base::ScratchPlace> EntryMaker::scratch() const {
  if (!options_.scratch.empty()) return options_.scratch;
  return {{"/proc/self/fd/" + std::to_string(dir_.tmp()), "the wedge"}};
}

void EntryMaker::for_each_row(const std::function<void(const Row&)>& visit) const {
  if (!root_.unpack.empty()) {
    const auto archive = spool(source_, root_, scratch());
    (void)list_archive(internal::reading(archive.get()), root_.unpack, source_.object_format(), max_holes(), visit);
    return;
  }
  auto reader = read_manifest(source_, *root_.manifest);
  for (Row row; reader.next(row);) visit(row);
}

std::vector<Difference> EntryMaker::find_collisions(std::vector<std::string>& extras) const {
  // What the root has at these paths and at the directories they lie in; targets of links in a second walk.
  std::map<std::string, Row> rows;
  std::set<std::string> wanted;
  for (const auto& extra : extras)
    for (auto path = extra; wanted.insert(path).second && path != ".";)
      path = formats::split_path(path).first;
  const auto collect = [&](const Row& row) {
    if (wanted.contains(row.path) && !is_left_out(row, options_.fidelity))
      rows.insert_or_assign(row.path, row);
  };
  if (is_tree(root_)) {
    for_each_row(collect);
    bool links = false;
    for (const auto& [path, row] : rows)
      if (row.type == Row::Type::hard_link) links = wanted.insert(row.target).second || links;
    if (links) for_each_row(collect);
  } else {
    rows["."] = {};  // a file
  }
  const auto old = base::open_beneath(dir_.top(), path_, O_RDONLY | O_DIRECTORY);
  const auto find_row = [&](const std::string& path) -> const Row* {
    auto found = rows.find(path);
    if (found != rows.end() && found->second.type == Row::Type::hard_link)
      found = rows.find(found->second.target);
    return found != rows.end() ? &found->second : nullptr;
  };
  std::vector<Difference> collisions;
  std::erase_if(extras, [&](const std::string& extra) {
    if (is_by_product(extra)) return false;
    for (auto path = extra; path != ".";) {
      path = formats::split_path(path).first;
      const auto* above = find_row(path);
      if (above == nullptr || above->type == Row::Type::directory) continue;
      collisions.push_back({Difference::Kind::extra, extra,
                            path == "." ? "the new entry is a file" : "the new tree has a file " + path});
      return false;
    }
    const auto* row = find_row(extra);
    if (row == nullptr) return false;
    if (is_alike(old.get(), extra, *row, source_.object_format())) return true;
    collisions.push_back({Difference::Kind::extra, extra, "the new tree has another " + extra});
    return false;
  });
  return collisions;
}

std::uint64_t EntryMaker::write_kept(const Record& made, int work, RecordWriter& rows) const {
  const auto name = record_name(path_);
  const auto draft = name + ".draft";
  rows.publish(draft);
  auto record = made;
  record.kept = true;
  RecordWriter next(dir_.records(), record, work);
  const auto top = base::open_beneath(work, "new", O_RDONLY | O_DIRECTORY);
  const auto count =
      add_kept(dir_.records(), draft, top.get(), source_.object_format(), options_.fidelity, next);
  next.publish(name + ".next");
  base::remove_tree(dir_.records(), draft);
  return count;
}

void EntryMaker::carry(const std::vector<std::string>& extras, int work) const {
  if (extras.empty() || !is_tree(root_)) return;  // by-products of a tree that becomes a file
  const auto old = base::open_beneath(dir_.top(), path_, O_RDONLY | O_DIRECTORY);
  const auto fresh = base::open_beneath(work, "new", O_RDONLY | O_DIRECTORY);
  std::vector<std::string> directories;
  for (const auto& extra : extras) {
    const bool made = base::named(formats::escape(extra), [&] {
      try {
        return carry_one(extra, old.get(), fresh.get());
      } catch (const Error& error) {
        // Nobody needs a by-product; the old state has it.
        if (!is_by_product(extra) || error.category() != Category::local) throw;
        dir_.note(path_ + ": " + formats::escape(extra) + " stays in .shrub/old: " + error.what());
        return false;
      }
    });
    if (made) directories.push_back(extra);
  }
  // Modes and times last, when all that they hold lies in them.
  for (auto directory = directories.rbegin(); directory != directories.rend(); ++directory)
    copy_metadata(base::open_beneath(old.get(), *directory, O_RDONLY | O_DIRECTORY).get(),
                  base::open_beneath(fresh.get(), *directory, O_RDONLY | O_DIRECTORY).get());
}

bool EntryMaker::carry_one(const std::string& extra, int old, int fresh) const {
  const auto [parent_path, name] = formats::split_path(extra);
  const auto from = base::open_beneath(old, parent_path, O_RDONLY | O_DIRECTORY);
  base::UniqueFd to;
  try {
    to = base::open_beneath(fresh, parent_path, O_RDONLY | O_DIRECTORY);
  } catch (const Error& error) {
    if (error.category() == Category::local) throw;
    // The directory it was a by-product of is gone; or the new tree has its way.
    if (is_by_product(extra) || options_.overwrite) return false;
    throw Error(Category::refused, "an extra path; its directory is not in the new tree");
  }
  const auto info = find_stat(from.get(), name);
  if (!info) return false;
  const bool directory = S_ISDIR(info->st_mode);
  if ((directory ? ::mkdirat(to.get(), name.c_str(), 0700)
                 : ::linkat(from.get(), name.c_str(), to.get(), name.c_str(), 0)) == 0)
    return directory;
  // The new tree has a path of this name: its own by-product serves as well. With --overwrite the new tree
  // has its way, and the user's file stays in the old one. Otherwise find_collisions() stopped the sync.
  if (errno == EEXIST && (is_by_product(extra) || options_.overwrite)) return false;
  // A file of somebody else (protected_hardlinks), one that has no room for a name, a file system without
  // links, or one that has it in another layer: a copy does.
  if (directory || (errno != EPERM && errno != EMLINK && errno != EXDEV && errno != EOPNOTSUPP))
    base::throw_errno(directory ? "make directory" : "link", errno);
  (void)copy_path(from.get(), name, to.get(), name);
  return false;
}

bool EntryMaker::can_change_in_place(const Record& record, const struct stat& there) const {
  if (!is_tree(root_))
    return root_.recipe && !root_.is_qcow2() && root_.executable == is_executable(record.key) &&
           recipe_of(record.key, root_.recipe->format()) && S_ISREG(there.st_mode);
  struct stat workspace;
  return root_.unpack.empty() && !record.kept && record.key.starts_with("tree ") && S_ISDIR(there.st_mode) &&
         fidelity_of(record.key) == options_.fidelity && ::fstat(dir_.tmp(), &workspace) == 0 &&
         workspace.st_dev == there.st_dev;
}

std::optional<WriteSummary> EntryMaker::stage(const Record& record, const Record& made, int work) const {
  RecordWriter next(dir_.records(), made, -1);
  const auto summary =
      is_tree(root_) ? stage_tree(made, work, next) : stage_content(record, made, work, next);
  if (!summary) return std::nullopt;
  if (summary->kept_otherwise + summary->skipped_xattrs > 0) {  // the record has to say how; not from here
    base::remove_tree(work, "new");
    return std::nullopt;
  }
  if (::syncfs(work) != 0) base::throw_errno("sync", errno);
  next.publish(record_name(path_) + ".next");
  return summary;
}

WriteSummary EntryMaker::stage_tree(const Record& made, int work, RecordWriter& next) const {
  RowChanges changes(read_rows(dir_.records(), record_name(made.path) + ".state"));
  const auto top = base::open_beneath(dir_.top(), made.path, O_RDONLY | O_DIRECTORY);
  auto write = write_options(top.get(), next);
  write.is_there = [&](const Row& row) { return changes.next(row) != RowChanges::Change::made; };
  return write_tree(source_, *root_.manifest, *root_.layout, work, "new", write);
}

std::optional<WriteSummary> EntryMaker::stage_content(const Record& record, const Record& made, int work,
                                                      RecordWriter& next) const {
  const auto [parent_path, name] = formats::split_path(made.path);
  const auto parent = base::open_beneath(dir_.top(), parent_path, O_RDONLY | O_DIRECTORY);
  base::UniqueFd fd;
  try {
    fd = base::open_at(parent.get(), name, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  } catch (const Error&) {
    return std::nullopt;  // read only, or a program that runs
  }
  // The link makes sure that nothing else gets the inode's number. Nothing is ever set on a file that
  // somebody else has linked.
  bool pinned = false;
  const auto pin = [&, &entry = name] {
    pinned = ::linkat(parent.get(), entry.c_str(), work, kPinned, 0) == 0;
  };
  dir_.cache() != nullptr ? dir_.cache()->keep_across(fd.get(), pin) : pin();
  struct stat info, staged;
  if (!pinned || ::fstat(fd.get(), &info) != 0 || info.st_nlink != 2) return std::nullopt;
  WriteSummary summary;
  summary.files = summary.reused_files = 1;
  summary.fetched_size = internal::stage_content(source_, content_update(record, fd.get()), fd.get(), work);
  if (::fstat(fd.get(), &staged) != 0) base::throw_errno("stat", errno);
  if (state_of(staged) != state_of(info))
    throw Error(Category::refused, "was changed while its update was made", "sync again");
  auto row = file_row(parent.get(), name, root_);
  timespec now{};
  (void)::clock_gettime(CLOCK_REALTIME, &now);
  row.mtime = {now.tv_sec, static_cast<std::uint32_t>(now.tv_nsec)};
  next.add(row);
  return summary;
}

void EntryMaker::write_record(const Record& made) const {
  const auto [parent_path, name] = formats::split_path(path_);
  const auto parent = base::open_beneath(dir_.top(), parent_path, O_RDONLY | O_DIRECTORY);
  auto settled = made;
  settled.inode = stat_of(parent.get(), name).st_ino;
  settled.workspace.clear();
  RecordWriter record(dir_.records(), settled, -1);
  if (is_tree(root_)) {
    for_each_row([&](const Row& row) { record.add(row); });
  } else {
    record.add(file_row(parent.get(), name, root_));
  }
  record.publish(record_name(path_) + ".state");
}

bool EntryMaker::is_remembered() const {
  return dir_.cache() != nullptr && !root_.is_qcow2() && (is_tree(root_) || root_.size >= kWorthATick);
}

/// What the file that was made, and is `info`, holds.
KnownFile EntryMaker::known(const struct stat& info) const {
  auto known = known_content(source_, root_.blob, root_.recipe);
  known.sparse = info.st_blocks * 512 < info.st_size;
  return known;
}

void EntryMaker::remember_content() const {
  const auto [parent_path, name] = formats::split_path(path_);
  const auto parent = base::open_beneath(dir_.top(), parent_path, O_RDONLY | O_DIRECTORY);
  const auto info = find_stat(parent.get(), name);
  if (dir_.cache() == nullptr || is_tree(root_) || !info) return;
  const auto content = known(*info);
  dir_.wait_for_clock();
  dir_.cache()->put(state_of(*info), {parent.get(), name.c_str()}, content, StatCache::now());
}

}  // namespace wedge::internal
