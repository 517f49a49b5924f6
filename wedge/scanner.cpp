#include "wedge/scanner.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <map>
#include <mutex>
#include <set>

#include "formats/base/file.h"
#include "formats/text/layout.h"
#include "vat/content.h"
#include "wedge/git_tree.h"
#include "wedge/internal/place_file.h"
#include "wedge/internal/walk.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;
using formats::Row;

/// `all`: those of the machine too, as far as they can be read.
std::map<std::string, std::string> read_xattrs(int fd, bool all) {
  std::map<std::string, std::string> found;
  for (const auto& name : internal::list_xattrs(fd)) {
    const bool recorded = internal::is_recorded_xattr(name);
    if (!recorded && !all) continue;
    std::string value(65536, '\0');
    const ssize_t length = ::fgetxattr(fd, name.c_str(), value.data(), value.size());
    if (length < 0 && !recorded) continue;
    if (length < 0) base::throw_errno("extended attribute " + name, errno);
    value.resize(static_cast<std::size_t>(length));
    found.emplace(name, std::move(value));
  }
  return found;
}

Row::Type type_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return Row::Type::directory;
    case S_IFREG:
      return Row::Type::file;
    case S_IFLNK:
      return Row::Type::symlink;
    case S_IFCHR:
      return Row::Type::character_device;
    case S_IFBLK:
      return Row::Type::block_device;
    case S_IFIFO:
      return Row::Type::fifo;
    default:
      throw Error(Category::refused, "is a socket, which a tree cannot hold",
                  "leave it out: --exclude or --keep-going");
  }
}

bool has_hole(int fd, const struct stat& info) {
  if (info.st_blocks * 512 >= info.st_size) return false;
  const off_t hole = ::lseek(fd, 0, SEEK_HOLE);
  (void)::lseek(fd, 0, SEEK_SET);
  return hole >= 0 && hole < info.st_size;
}

/// What is known of files without reading them, and may be relied on in this scan.
class Known {
 public:
  Known(const ScanOptions& options, vat::Adder* adder)
      : options_(options),
        adder_(adder),
        kept_(adder != nullptr && !adder->avoids_packs() ? adder->vat().states().kept
                                                         : std::set<std::string>()) {}

  [[nodiscard]] std::optional<KnownFile> find(const FileState& state, const base::FileAt& where) const {
    return options_.cache != nullptr ? options_.cache->find(state, where) : std::nullopt;
  }

  /// Whether the file's content need not be read: it is known and, if it is to be stored, it is stored.
  [[nodiscard]] bool suffices(KnownFile& known, const FileState& state, const base::FileAt& where,
                              const std::string& path) const {
    if (!known.blob || options_.spot_check.is_due(state) || is_excluded(options_.always_hash, path, false))
      return false;
    if (adder_ == nullptr) return true;
    if (state.size <= options_.parameters.average_size())
      known.recipe.reset();  // stored whole, whatever it was elsewhere
    else if (known.exponent != options_.parameters.exponent)
      return false;
    if (kept_.contains(known.stored)) return true;
    if (!vat::holds(*adder_, *known.blob, known.recipe)) return false;
    options_.cache->put(state, where, known, StatCache::now());
    return true;
  }

  void put(const FileState& state, const base::FileAt& where, const KnownFile& known,
           std::int64_t read_since) const {
    if (options_.cache != nullptr) options_.cache->put(state, where, known, read_since);
  }

 private:
  const ScanOptions& options_;
  vat::Adder* adder_;
  std::set<std::string> kept_;  ///< states of the vat
};

/// One path of the tree on its way through ingest.
class ScanItem final : public vat::IngestItem {
 public:
  ScanItem(int top, internal::Walk::Entry entry, const ScanOptions& options, const Known& known)
      : top_(top), options_(options), known_(known), entry_(std::move(entry)) {
    scanned.row.path = entry_.path;
    max_holes = options.max_holes;
  }

  [[nodiscard]] std::optional<base::UniqueFd> open() override {
    if (!formats::is_safe_path(entry_.path))
      throw Error(Category::refused, "a path that a manifest cannot hold");
    read_since_ = StatCache::now();
    const auto name = entry_.name();
    const auto parent = internal::Walk::open_parent(top_, entry_);
    entry_.parent.reset();
    struct stat info;
    if (::fstatat(parent->get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
      base::throw_errno(name, errno);
    take(info);
    Row& row = scanned.row;
    const bool file = row.type == Row::Type::file;
    if (!file && row.type != Row::Type::directory) {
      if (row.type == Row::Type::symlink) row.target = read_link(parent->get(), name);
      return std::nullopt;
    }
    const base::FileAt where{parent->get(), name.c_str()};
    if (auto found = known_.find(file_state, where)) {
      before_ = found->blob;
      const bool reading = file && options_.read_content;
      if (!reading || known_.suffices(*found, file_state, where, row.path)) {
        if (reading) content = vat::Ingested{*found->blob, found->recipe, file_state.size};
        if (options_.all_xattrs)
          found->xattrs =
              read_xattrs(base::open_at(parent->get(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).get(), true);
        take(*found);
        return std::nullopt;
      }
    }
    // Only regular files and directories are opened for reading: opening a fifo or a device may block or act.
    auto fd = base::open_at(parent->get(), name, O_RDONLY | O_NOFOLLOW | (file ? O_NONBLOCK : O_DIRECTORY));
    const bool reading = file && options_.read_content;
    // Whoever reads the content compares the state when that is done. File systems without a device of their
    // own (FUSE, network) may have told what was true a second ago.
    struct stat opened = info;
    const bool may_be_stale = major(info.st_dev) == 0;
    struct statx fresh_info;
    if (may_be_stale)  // the kernel then knows, and fstat() tells
      (void)::statx(fd.get(), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &fresh_info);
    if ((!reading || may_be_stale) && ::fstat(fd.get(), &opened) != 0) base::throw_errno("stat", errno);
    if (state_of(opened) != file_state) {
      if (!reading || opened.st_ino != info.st_ino) changed();
      take(opened);
    }
    state = opened;
    KnownFile fresh;
    fresh.sparse = file && has_hole(fd.get(), info);
    fresh.xattrs = read_xattrs(fd.get(), options_.all_xattrs);
    take(fresh);
    if (options_.all_xattrs)
      std::erase_if(fresh.xattrs,
                    [](const auto& attribute) { return !internal::is_recorded_xattr(attribute.first); });
    fresh_ = std::move(fresh);
    if (reading) return fd;
    if (!file) known_.put(file_state, where, *fresh_, read_since_);
    return std::nullopt;
  }

  /// After reading: remembers what it told. True if it is not what was known of the same state.
  bool settle(bool stored) {
    if (!fresh_ || !content) return false;
    fresh_->blob = content->blob;
    fresh_->recipe = content->recipe;
    fresh_->exponent = stored ? options_.parameters.exponent : 0;
    known_.put(file_state, {-1}, *fresh_, read_since_);  // its file system was looked at when it was opened
    return before_ && *before_ != content->blob;
  }

  ScannedRow scanned;
  FileState file_state;
  nlink_t links = 1;

 private:
  [[noreturn]] static void changed() { throw Error(Category::local, "changed while it was read"); }

  void take(const struct stat& info) {
    Row& row = scanned.row;
    row.type = type_of(info.st_mode);
    if (IFTODT(info.st_mode) != entry_.type && entry_.type != DT_UNKNOWN) changed();
    file_state = state_of(info);
    links = info.st_nlink;
    scanned.executable = (info.st_mode & S_IXUSR) != 0;
    if (row.type != Row::Type::symlink) row.mode = info.st_mode & 07777;
    if (row.type == Row::Type::character_device || row.type == Row::Type::block_device)
      row.target = std::to_string(major(info.st_rdev)) + ":" + std::to_string(minor(info.st_rdev));
    if (row.type == Row::Type::file) row.size = static_cast<std::uint64_t>(info.st_size);
    if (options_.normalize) {
      row.mtime = options_.normalize->mtime;
      if (row.type != Row::Type::symlink)
        row.mode =
            (row.mode & 07000) | (row.type == Row::Type::directory || scanned.executable ? 0755U : 0644U);
    } else {
      row.uid = info.st_uid;
      row.gid = info.st_gid;
      row.mtime = {info.st_mtim.tv_sec, static_cast<std::uint32_t>(info.st_mtim.tv_nsec)};
    }
  }

  void take(const KnownFile& known) {
    scanned.row.sparse = known.sparse && !options_.normalize;
    for (const auto& [name, value] : known.xattrs)
      if ((options_.all_xattrs && !options_.normalize) || name == "security.capability" ||
          (!options_.normalize && internal::is_recorded_xattr(name)))
        scanned.row.xattrs.emplace(name, value);
  }

  [[nodiscard]] static std::string read_link(int parent, const std::string& name) {
    std::string target(65536, '\0');
    const ssize_t size = ::readlinkat(parent, name.c_str(), target.data(), target.size());
    if (size < 0) base::throw_errno("read link", errno);
    target.resize(static_cast<std::size_t>(size));
    return target;
  }

  int top_;
  const ScanOptions& options_;
  const Known& known_;
  internal::Walk::Entry entry_;
  std::int64_t read_since_ = 0;
  std::optional<base::ObjectId> before_;  ///< what was known of the content in this state
  std::optional<KnownFile> fresh_;        ///< what was found by opening it
};

/// The walk as ingest wants it, and the problems met on the way.
class Scan {
 public:
  Scan(int top, vat::Adder* adder, const ScanOptions& options, const std::function<void(ScannedRow)>& on_row)
      : top_(top),
        options_(options),
        known_(options, adder),
        storing_(adder != nullptr),
        on_row_(on_row),
        walk_(
            top, [this](const auto& entry) { return wanted(entry); },
            [this](const std::string& path, const std::exception_ptr& why) { problem(path, why); }) {
    struct stat info;
    if (::fstat(top, &info) != 0) base::throw_errno("stat", errno);
    device_ = info.st_dev;
    for (const auto& path : options.skip_directories)
      if (::stat(path.c_str(), &info) == 0) skipped_.emplace_back(info.st_dev, info.st_ino);
  }

  std::unique_ptr<vat::IngestItem> next() {
    auto entry = walk_.next();
    if (!entry) return nullptr;
    return std::make_unique<ScanItem>(top_, *std::move(entry), options_, known_);
  }

  void done(ScanItem& item) {
    Row& row = item.scanned.row;
    if (!lost_.empty() && row.path.starts_with(lost_)) return;  // in a directory that was passed over
    if (!item.failure) settle(item);
    if (item.failure) {
      lost_ = row.path + "/";
      return problem(row.path, item.failure);
    }
    if (item.content) {
      row.blob = item.content->blob;
      row.size = item.content->size;
      item.scanned.recipe = item.content->recipe;
    }
    if (row.type != Row::Type::directory && item.links > 1) {
      const auto [first, fresh] =
          first_path_.try_emplace({item.file_state.device, item.file_state.inode}, row.path);
      if (!fresh) {
        Row link;
        link.type = Row::Type::hard_link;
        link.target = first->second;
        link.path = row.path;
        ScannedRow scanned{std::move(link), std::nullopt, item.scanned.executable, std::nullopt, {}};
        scanned.linked_blob = row.type == Row::Type::file ? std::optional(row.blob) : std::nullopt;
        scanned.linked_target = row.type == Row::Type::symlink ? row.target : std::string();
        return on_row_(std::move(scanned));
      }
    }
    on_row_(std::move(item.scanned));
  }

  [[nodiscard]] bool partial() const { return partial_; }

 private:
  void settle(ScanItem& item) {
    try {
      formats::check_row(item.scanned.row);
      if (item.settle(storing_) && options_.on_silent_change)
        options_.on_silent_change(item.scanned.row.path);
    } catch (const Error&) {
      item.failure = std::current_exception();
      item.content.reset();
    }
  }

  bool is_wedge_state(const internal::Walk::Entry& entry) const {
    if (entry.path == "." || entry.name() != ".shrub") return false;
    const auto state = base::find_open_at(internal::Walk::open_parent(top_, entry)->get(), entry.name(),
                                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    return state && base::find_stat(state->get(), "lock") && base::find_stat(state->get(), "entries");
  }

  internal::Walk::Take wanted(const internal::Walk::Entry& entry) {
    using Take = internal::Walk::Take;
    const bool directory = entry.type == DT_DIR;
    if (is_excluded(options_.exclude, entry.path, directory)) return Take::nothing;
    if (directory && options_.on_wedge_state && is_wedge_state(entry)) {
      options_.on_wedge_state(entry.path);
      return Take::nothing;
    }
    if (!directory || (skipped_.empty() && !options_.one_file_system)) return Take::all;
    struct stat info;
    if (::fstatat(internal::Walk::open_parent(top_, entry)->get(), entry.name().c_str(), &info,
                  AT_SYMLINK_NOFOLLOW) != 0)
      return Take::all;  // reading it will tell
    for (const auto& [device, inode] : skipped_)
      if (device == info.st_dev && inode == info.st_ino) return Take::nothing;
    // Whoever restores the tree needs the places to mount at.
    return options_.one_file_system && info.st_dev != device_ ? Take::itself : Take::all;
  }

  void problem(const std::string& path, const std::exception_ptr& why) {
    try {
      std::rethrow_exception(why);
    } catch (const Error& error) {
      const auto shown = formats::escape(path);
      const std::string_view what = error.what();
      const auto named_error = what.starts_with(path) ? error : base::prefixed(shown, error);
      // A file that vanished is the tree changing under us, not something the user named.
      const auto category = error.category() == Category::not_found ? Category::local : error.category();
      const Error told(category, named_error.what(), error.hint());
      if (!options_.keep_going) throw Error(told);
      partial_ = true;
      const std::lock_guard lock(problem_mutex_);
      if (options_.on_problem) options_.on_problem(path, told);
    }
  }

  int top_;
  const ScanOptions& options_;
  const Known known_;
  const bool storing_;
  const std::function<void(ScannedRow)>& on_row_;
  dev_t device_ = 0;
  std::vector<std::pair<dev_t, ino_t>> skipped_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::string> first_path_;
  std::string lost_;  ///< prefix of the paths below the last one passed over
  std::mutex problem_mutex_;
  std::atomic<bool> partial_ = false;
  internal::Walk walk_;
};

}  // namespace

bool is_excluded(const std::vector<std::string>& patterns, const std::string& path, bool directory) {
  const auto slash = path.rfind('/');
  const auto name = slash == std::string::npos ? path : path.substr(slash + 1);
  for (std::string pattern : patterns) {
    if (pattern.ends_with('/')) {
      if (!directory) continue;
      pattern.pop_back();
    }
    const bool whole = pattern.find('/') != std::string::npos;
    if (pattern.starts_with('/')) pattern.erase(0, 1);
    if (::fnmatch(pattern.c_str(), whole ? path.c_str() : name.c_str(), whole ? FNM_PATHNAME : 0) == 0)
      return true;
  }
  return false;
}

bool scan_tree(int top, base::ObjectFormat format, vat::Adder* adder, const ScanOptions& options,
               const std::function<void(ScannedRow)>& on_row) {
  Scan scan(top, adder, options, on_row);
  vat::ingest(format, adder, options.parameters, options.threads,
              {[&] { return scan.next(); },
               [&](std::unique_ptr<vat::IngestItem> item) { scan.done(static_cast<ScanItem&>(*item)); },
               options.progress});
  return scan.partial();
}

TreeIds add_tree(int top, base::ObjectFormat format, vat::Adder& adder, const ScanOptions& options) {
  TreeIds ids;
  formats::ManifestWriter manifest(format, adder.put_text(formats::BlobKind::manifest));
  std::map<base::ObjectId, base::ObjectId> recipes;  // of chunked files; sorted as a layout is
  GitTree git_tree(format);
  ids.partial = scan_tree(top, format, &adder, options, [&](ScannedRow scanned) {
    const Row& row = scanned.row;
    manifest.add(row);
    ++ids.entries;
    if (row.type == Row::Type::file) {
      ids.size += row.size;
      git_tree.add_file(row.path, row.blob, scanned.executable);
      if (scanned.recipe) recipes.emplace(row.blob, *scanned.recipe);
    } else if (row.type == Row::Type::symlink) {
      git_tree.add_symlink(row.path, row.target);
    } else if (scanned.linked_blob) {
      git_tree.add_file(row.path, *scanned.linked_blob, scanned.executable);
    } else if (!scanned.linked_target.empty()) {
      git_tree.add_symlink(row.path, scanned.linked_target);
    }
  });
  if (ids.entries == 0) throw Error(Category::local, "the directory itself could not be read");
  formats::LayoutWriter layout(format, adder.put_text(formats::BlobKind::layout));
  for (const auto& [blob, recipe] : recipes) layout.add(blob, recipe);
  ids.manifest = manifest.finish();
  ids.layout = layout.finish();
  ids.tree = git_tree.finish();
  return ids;
}

}  // namespace wedge
