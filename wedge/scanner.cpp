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

#include "formats/base/file.h"
#include "formats/text/layout.h"
#include "wedge/git_tree.h"
#include "wedge/internal/walk.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;
using formats::Row;

/// Extended attributes that belong to the content of a tree; others come from the machine it lies on.
bool is_recorded_xattr(std::string_view name, bool normalized) {
  return name == "security.capability" || (!normalized && name.starts_with("user."));
}

std::map<std::string, std::string> read_xattrs(int fd, bool normalized) {
  std::map<std::string, std::string> found;
  const ssize_t size = ::flistxattr(fd, nullptr, 0);
  if (size <= 0) return found;  // none, or a file system without them
  std::string names(static_cast<std::size_t>(size), '\0');
  const ssize_t got = ::flistxattr(fd, names.data(), names.size());
  if (got < 0) base::throw_errno("list extended attributes", errno);
  names.resize(static_cast<std::size_t>(got));
  for (std::size_t at = 0; at < names.size();) {
    const std::string name = names.c_str() + at;
    at += name.size() + 1;
    if (!is_recorded_xattr(name, normalized)) continue;
    std::string value(65536, '\0');
    const ssize_t length = ::fgetxattr(fd, name.c_str(), value.data(), value.size());
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

/// One path of the tree on its way through ingest.
class ScanItem final : public vat::IngestItem {
 public:
  ScanItem(int top, internal::Walk::Entry entry, const ScanOptions& options)
      : top_(top), options_(options), type_(entry.type) {
    scanned.row.path = std::move(entry.path);
  }

  [[nodiscard]] std::optional<base::UniqueFd> open() override {
    Row& row = scanned.row;
    if (!formats::is_safe_path(row.path))
      throw Error(Category::refused, "a path that a manifest cannot hold");
    // Only regular files and directories are opened for reading: opening a fifo or a device may block or act.
    const bool readable = type_ == DT_REG || type_ == DT_DIR;
    const int flags = !readable ? O_PATH : type_ == DT_DIR ? O_RDONLY | O_DIRECTORY : O_RDONLY | O_NONBLOCK;
    auto fd = base::open_beneath(top_, row.path, flags | O_NOFOLLOW);
    struct stat info;
    if (::fstat(fd.get(), &info) != 0) base::throw_errno("stat", errno);
    row.type = type_of(info.st_mode);
    if (IFTODT(info.st_mode) != type_ && type_ != DT_UNKNOWN)
      throw Error(Category::local, "changed while it was read");
    device = info.st_dev;
    inode = info.st_ino;
    links = info.st_nlink;
    scanned.executable = (info.st_mode & S_IXUSR) != 0;
    fill(row, fd.get(), info);
    if (row.type != Row::Type::file || !options_.read_content) return std::nullopt;
    return fd;
  }

  ScannedRow scanned;
  dev_t device = 0;
  ino_t inode = 0;
  nlink_t links = 1;

 private:
  void fill(Row& row, int fd, const struct stat& info) const {
    if (row.type == Row::Type::symlink) {
      row.target.resize(65536);
      const ssize_t size = ::readlinkat(fd, "", row.target.data(), row.target.size());
      if (size < 0) base::throw_errno("read link", errno);
      row.target.resize(static_cast<std::size_t>(size));
    } else {
      row.mode = info.st_mode & 07777;
    }
    if (row.type == Row::Type::character_device || row.type == Row::Type::block_device)
      row.target = std::to_string(major(info.st_rdev)) + ":" + std::to_string(minor(info.st_rdev));
    if (row.type == Row::Type::file) {
      row.size = static_cast<std::uint64_t>(info.st_size);
      row.sparse = !options_.normalize && has_hole(fd, info);
    }
    if (row.type == Row::Type::file || row.type == Row::Type::directory)
      row.xattrs = read_xattrs(fd, options_.normalize.has_value());
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

  int top_;
  const ScanOptions& options_;
  unsigned char type_;
};

/// The walk as ingest wants it, and the problems met on the way.
class Scan {
 public:
  Scan(int top, const ScanOptions& options, const std::function<void(ScannedRow)>& on_row)
      : top_(top),
        options_(options),
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
    return std::make_unique<ScanItem>(top_, *std::move(entry), options_);
  }

  void done(ScanItem& item) {
    Row& row = item.scanned.row;
    if (!lost_.empty() && row.path.starts_with(lost_)) return;  // in a directory that was passed over
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
      const auto [first, fresh] = first_path_.try_emplace({item.device, item.inode}, row.path);
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
  bool wanted(const internal::Walk::Entry& entry) {
    const bool directory = entry.type == DT_DIR;
    if (is_excluded(options_.exclude, entry.path, directory)) return false;
    if (!directory || (skipped_.empty() && !options_.one_file_system)) return true;
    struct stat info;
    const auto slash = entry.path.rfind('/');
    const auto parent = base::open_beneath(
        top_, slash == std::string::npos ? "." : entry.path.substr(0, slash), O_PATH | O_DIRECTORY);
    const auto name = slash == std::string::npos ? entry.path : entry.path.substr(slash + 1);
    if (::fstatat(parent.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
      return true;  // reading it will tell
    for (const auto& [device, inode] : skipped_)
      if (device == info.st_dev && inode == info.st_ino) return false;
    return !options_.one_file_system || info.st_dev == device_;
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
  const std::function<void(ScannedRow)>& on_row_;
  dev_t device_ = 0;
  std::vector<std::pair<dev_t, ino_t>> skipped_;
  std::map<std::pair<dev_t, ino_t>, std::string> first_path_;
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
  Scan scan(top, options, on_row);
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
