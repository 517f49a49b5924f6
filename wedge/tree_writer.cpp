// The calling thread reads rows in order, makes directories and symlinks itself and hands runs of files to
// workers. Hard links come when all files are there; modes and times of directories last, deepest first.
#include "wedge/tree_writer.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "chunker/chunker.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/worker_pool.h"
#include "formats/text/layout.h"
#include "formats/text/recipe.h"
#include "vat/content.h"
#include "wedge/internal/place_file.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::Row;
using internal::ContentWriter;

constexpr std::size_t kBatchFiles = 64;
constexpr std::uint64_t kBatchSize = std::uint64_t{1}
                                     << 20;  ///< content bytes after which a batch is handed over
constexpr std::size_t kOpenDirectories = 32;

using SharedFd = std::shared_ptr<base::UniqueFd>;  // shared: batches of one directory finish in any order
using Layout = std::unordered_map<ObjectId, ObjectId>;

formats::GetText getter(vat::BlobSource& source) {
  return [&source](const ObjectId& id) { return source.read(id); };
}

Layout read_layout(vat::BlobSource& source, const ObjectId& id) {
  Layout layout;
  formats::LayoutReader reader(source.read(id), source.object_format(), getter(source));
  ObjectId blob, recipe;
  while (reader.next(blob, recipe)) layout.emplace(blob, recipe);
  return layout;
}

/// Content of one file into an open descriptor. Returns how many bytes came from the source; holes do not.
std::uint64_t fill(vat::BlobSource& source, const std::optional<ObjectId>& blob,
                   const std::optional<ObjectId>& recipe, std::uint64_t size, ContentWriter& writer) {
  std::uint64_t fetched = 0;
  const auto write = [&](base::Bytes bytes) {
    fetched += bytes.size();
    writer.write(bytes);
  };
  if (recipe) check_recipe(source, *recipe, blob, size);
  vat::stream_pinned(source, blob, recipe, write, [&](std::uint64_t hole) { writer.hole(hole); });
  writer.finish();
  if (writer.size() != size) throw Error(Category::refused, "content is not of the size listed");
  return fetched;
}

class TreeWriter {
 public:
  TreeWriter(vat::BlobSource& source, const ObjectId& layout, const WriteOptions& options)
      : source_(source),
        options_(options),
        layout_(read_layout(source, layout)),
        threads_(options.threads != 0 ? options.threads : std::max(1U, std::thread::hardware_concurrency())),
        pool_(threads_) {}

  WriteSummary write(const ObjectId& manifest, int parent, const std::string& name) {
    if (::mkdirat(parent, name.c_str(), 0700) != 0) base::throw_errno("make directory " + name, errno);
    top_ = base::open_directory(parent, name);
    auto reader = read_manifest(source_, manifest);
    Row row;
    while (reader.next(row)) {
      const bool made = base::named(formats::escape(row.path), [&] { return place(row); });
      if (made) internal::count_skipped(row, options_.fidelity, summary_);
      if (made && options_.on_row) options_.on_row(row);
    }
    hand_over();
    while (!running_.empty()) wait_for_oldest();
    check_links_to_the_present(manifest);
    for (const auto& link : links_) base::named(formats::escape(link.path), [&] { make_link(link); });
    directories_.erase(directories_.begin());  // the top: see tree_writer.h
    for (auto directory = directories_.rbegin(); directory != directories_.rend(); ++directory) {
      base::named(formats::escape(directory->path), [&] {
        const auto fd = base::open_beneath(top_.get(), directory->path, O_RDONLY | O_DIRECTORY);
        note(internal::set_metadata(fd.get(), *directory, options_.fidelity));
      });
    }
    summary_.reused_files = reused_;
    summary_.fetched_size = fetched_;
    summary_.skipped_xattrs += skipped_xattrs_;
    summary_.kept_otherwise += kept_otherwise_;
    return summary_;
  }

 private:
  struct Batch {
    std::vector<std::pair<SharedFd, Row>> files;
    std::uint64_t size = 0;
  };

  /// False if the row is left out.
  bool place(const Row& row) {
    if (row.path == ".") {
      directories_.push_back(row);
      return true;
    }
    if (options_.is_there) {
      if (options_.is_there(row)) {
        if (row.type != Row::Type::file) return true;
        ++summary_.files;
        ++reused_;
        return true;
      }
    }
    const auto [parent_path, name] = formats::split_path(row.path);
    switch (row.type) {
      case Row::Type::directory: {
        const auto parent = directory(parent_path);
        if (::mkdirat(parent->get(), name.c_str(), 0700) != 0) base::throw_errno("make directory", errno);
        directories_.push_back(row);
        return true;
      }
      case Row::Type::file: {
        batch_.files.emplace_back(directory(parent_path), row);
        batch_.size += row.size;
        ++summary_.files;
        if (batch_.files.size() >= kBatchFiles || batch_.size >= kBatchSize) hand_over();
        return true;
      }
      case Row::Type::symlink:
        note(internal::make_symlink(directory(parent_path)->get(), name, row, options_.fidelity));
        return true;
      case Row::Type::hard_link: {
        if (left_out_.contains(row.target)) return false;
        links_.push_back(row);
        return true;
      }
      default:
        if (internal::is_left_out(row, options_.fidelity)) {
          ++summary_.skipped_special;
          left_out_.insert(row.path);
          return false;
        }
        note(internal::make_special(directory(parent_path)->get(), name, row, options_.fidelity));
        return true;
    }
  }

  /// A handle on a directory of the tree; the last few stay open.
  SharedFd directory(const std::string& path) {
    for (auto known = open_.rbegin(); known != open_.rend(); ++known)
      if (known->first == path) return known->second;
    auto fd = std::make_shared<base::UniqueFd>(
        options_.is_there ? internal::ensure_beneath(top_.get(), path)
                          : base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY));
    if (open_.size() == kOpenDirectories) open_.pop_front();
    open_.emplace_back(path, fd);
    return fd;
  }

  void hand_over() {
    if (batch_.files.empty()) return;
    if (running_.size() >= 2 * threads_ + 2) wait_for_oldest();
    const std::uint64_t size = batch_.size;
    running_.emplace_back(size, pool_.submit([this, batch = std::exchange(batch_, {})] {
      for (const auto& [parent, row] : batch.files)
        base::named(formats::escape(row.path),
                    [&, &dir = parent, &file = row] { place_file(dir->get(), file); });
    }));
  }

  void wait_for_oldest() {
    running_.front().second.get();
    done_ += running_.front().first;
    running_.pop_front();
    if (options_.progress) options_.progress(done_);
  }

  // --- on workers
  // ---------------------------------------------------------------------------------------------------

  void place_file(int parent, const Row& row) {
    const auto name = formats::split_path(row.path).second;
    if (options_.reuse_top >= 0 && reuse(parent, name, row)) {
      ++reused_;
      return;
    }
    auto fd = base::open_at(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    const auto recipe = recipe_of(row);
    ContentWriter writer(fd.get(), row.sparse);
    fetched_ += fill(source_, row.blob, recipe, row.size, writer);
    complete(fd.get(), row, [&] { return known_content(source_, row.blob, recipe); });
    fd.close();
  }

  [[nodiscard]] std::optional<ObjectId> recipe_of(const Row& row) const {
    const auto recipe = layout_.find(row.blob);
    return recipe == layout_.end() ? std::nullopt : std::optional(recipe->second);
  }

  /// Gives a file its metadata when its content is there; `content` says what that is.
  void note(const internal::Lost& lost) {
    skipped_xattrs_ += lost.xattrs;
    if (lost.other) ++kept_otherwise_;
  }

  template <typename Content>
  void complete(int fd, const Row& row, const Content& content) {
    const auto lost = internal::set_metadata(fd, row, options_.fidelity);
    note(lost);
    if (lost.xattrs == 0) remember(fd, row, content);
  }

  template <typename Content>
  void remember(int fd, const Row& row, const Content& content) const {
    struct stat info;
    if (options_.cache == nullptr || ::fstat(fd, &info) != 0) return;
    KnownFile known = content();
    known.sparse = info.st_blocks * 512 < info.st_size;
    if (known.sparse && !row.sparse) return;  // compressed by the file system, perhaps: who reads it will see
    known.xattrs.clear();
    for (const auto& [name, value] : row.xattrs)
      if (internal::is_restored_xattr(name, options_.fidelity)) known.xattrs.emplace(name, value);
    options_.cache->put(state_of(info), {fd}, known, StatCache::kUnshared);
  }

  /// Takes the file from the earlier tree if its content is proven to be the same.
  bool reuse(int parent, const std::string& name, const Row& row) {
    base::UniqueFd old;
    try {
      old = base::open_beneath(options_.reuse_top, row.path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    } catch (const Error&) {
      return false;  // not there, not readable: it comes from the source
    }
    struct stat info;
    if (::fstat(old.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
        static_cast<std::uint64_t>(info.st_size) != row.size)
      return false;
    auto known = options_.cache != nullptr ? options_.cache->find(state_of(info), {old.get()}) : std::nullopt;
    if (known && known->blob != row.blob) known.reset();
    if (!known && !holds(old.get(), row)) return false;
    const auto content = [&] { return known ? *known : known_content(source_, row.blob, recipe_of(row)); };
    auto fd = base::open_at(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (::ioctl(fd.get(), FICLONE, old.get()) == 0) {
      complete(fd.get(), row, content);
      fd.close();
      return true;
    }
    fd.reset();
    if (::unlinkat(parent, name.c_str(), 0) != 0) base::throw_errno("remove", errno);
    if (!may_link(old.get(), info, row)) return copy(old.get(), parent, name, row, content);
    const std::string self = "/proc/self/fd/" + std::to_string(old.get());
    if (::linkat(AT_FDCWD, self.c_str(), parent, name.c_str(), AT_SYMLINK_FOLLOW) != 0)
      return copy(old.get(), parent, name, row, content);
    auto unchanged = state_of(info);
    struct stat after;
    if (::fstat(old.get(), &after) != 0) base::throw_errno("stat", errno);
    unchanged.ctime = state_of(after).ctime;  // the link's doing
    if (unchanged == state_of(after)) remember(old.get(), row, content);
    return true;
  }

  bool may_link(int old, const struct stat& info, const Row& row) {
    if (!same_metadata(old, info, row)) return false;
    // Two paths that were one file may be two now; the manifest says which are linked.
    const std::lock_guard lock(linked_mutex_);
    return info.st_nlink <= 1 || (!options_.is_there && linked_.emplace(info.st_dev, info.st_ino).second);
  }

  /// Writes the file from the one that is open, which is proven on the way.
  template <typename Content>
  bool copy(int old, int parent, const std::string& name, const Row& row, const Content& content) {
    auto fd = base::open_at(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    ContentWriter writer(fd.get(), row.sparse);
    if (::lseek(old, 0, SEEK_SET) == 0 && holds(old, row, [&](base::Bytes bytes) { writer.write(bytes); })) {
      writer.finish();
      complete(fd.get(), row, content);
      fd.close();
      return true;
    }
    fd.reset();
    if (::unlinkat(parent, name.c_str(), 0) != 0) base::throw_errno("remove", errno);
    return false;
  }

  /// `visit` (may be empty) is told all that was read.
  bool holds(int fd, const Row& row, const std::function<void(base::Bytes)>& visit = {}) const {
    base::ObjectHasher hasher(source_.object_format());
    hasher.reset(row.size);
    base::Buffer buffer(
        static_cast<std::size_t>(std::min<std::uint64_t>(row.size + 1, std::uint64_t{1} << 20)));
    std::uint64_t total = 0;
    while (const std::size_t count = base::read_some(fd, buffer)) {
      total += count;
      if (total > row.size) return false;
      hasher.update(base::Bytes(buffer).subspan(0, count));
      if (visit) visit(base::Bytes(buffer).subspan(0, count));
    }
    return total == row.size && hasher.finish() == row.blob;
  }

  /// A hard link shares everything, so everything has to be equal.
  bool same_metadata(int fd, const struct stat& info, const Row& row) const {
    if ((info.st_mode & 07777) != internal::restored_mode(row, options_.fidelity)) return false;
    if (info.st_mtim.tv_sec != row.mtime.seconds || info.st_mtim.tv_nsec != row.mtime.nanoseconds)
      return false;
    if (options_.fidelity.owners && (info.st_uid != row.uid || info.st_gid != row.gid)) return false;
    if (!options_.fidelity.owners && info.st_uid != ::geteuid()) return false;
    std::size_t wanted = 0;
    for (const auto& [attribute, value] : row.xattrs) {
      if (!internal::is_restored_xattr(attribute, options_.fidelity)) continue;
      ++wanted;
      std::string there(value.size() + 1, '\0');
      const ssize_t size = ::fgetxattr(fd, attribute.c_str(), there.data(), there.size());
      if (size < 0 || there.substr(0, static_cast<std::size_t>(size)) != value) return false;
    }
    const auto names = internal::list_xattrs(fd);
    const auto count = std::count_if(names.begin(), names.end(), [](const auto& attribute) {
      return internal::is_recorded_xattr(attribute);
    });
    return static_cast<std::size_t>(count) == wanted;
  }

  // --- when all files are there
  // -------------------------------------------------------------------------------------

  /// Whether the path was written, not found to be there.
  bool is_written(const std::string& path) const {
    if (!options_.is_there) return true;
    const auto [parent_path, name] = formats::split_path(path);
    try {
      const auto parent = base::open_beneath(top_.get(), parent_path, O_RDONLY | O_DIRECTORY);
      return base::find_stat(parent.get(), name).has_value();
    } catch (const Error& error) {
      if (error.category() != Category::not_found) throw;
      return false;
    }
  }

  /// What is there may be more than the tree has, and nobody else's file becomes part of it.
  void check_links_to_the_present(const ObjectId& manifest) {
    std::unordered_set<std::string> targets;
    for (const auto& link : links_)
      if (!is_written(link.target)) targets.insert(link.target);
    if (targets.empty()) return;
    auto reader = read_manifest(source_, manifest);
    for (Row row; reader.next(row);) targets.erase(row.path);
    if (!targets.empty())
      throw Error(Category::refused,
                  formats::escape(*targets.begin()) + ": hard link to what is not in the tree");
  }

  void make_link(const Row& row) {
    const auto [target_parent, target_name] = formats::split_path(row.target);
    const auto [parent, name] = formats::split_path(row.path);
    const auto from = is_written(row.target)
                          ? directory(target_parent)
                          : std::make_shared<base::UniqueFd>(base::open_beneath(
                                options_.reuse_top, target_parent, O_RDONLY | O_DIRECTORY));
    const auto to = directory(parent);
    struct stat info;
    const bool there = ::fstatat(from->get(), target_name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
    if (!there && errno != ENOENT) base::throw_errno(row.target, errno);  // ENOENT is refused below
    if (!there || S_ISDIR(info.st_mode))
      throw Error(Category::refused, "hard link to what is not an earlier file");
    const auto link = [&, &target_name = target_name, &name = name] {
      note(internal::make_link(from->get(), target_name, to->get(), name));
    };
    if (options_.cache == nullptr || !S_ISREG(info.st_mode)) return link();
    const auto file = base::open_at(from->get(), target_name, O_PATH | O_NOFOLLOW);
    options_.cache->keep_across(file.get(), link);
  }

  vat::BlobSource& source_;
  const WriteOptions& options_;
  const Layout layout_;
  unsigned threads_;
  base::UniqueFd top_;
  std::deque<std::pair<std::string, SharedFd>> open_;
  std::vector<Row> directories_, links_;
  std::unordered_set<std::string> left_out_;  ///< paths of special files
  Batch batch_;
  std::deque<std::pair<std::uint64_t, std::future<void>>> running_;
  std::uint64_t done_ = 0;
  WriteSummary summary_;
  std::atomic<std::uint64_t> reused_ = 0, fetched_ = 0, skipped_xattrs_ = 0, kept_otherwise_ = 0;
  std::mutex linked_mutex_;
  std::set<std::pair<dev_t, ino_t>> linked_;  ///< files of the earlier tree that were linked from it
  base::WorkerPool pool_;                     // last: its threads use the rest
};

}  // namespace

formats::ManifestReader read_manifest(vat::BlobSource& source, const ObjectId& manifest) {
  return base::named("manifest " + manifest.short_hex(), [&] {
    return formats::ManifestReader(source.read(manifest), source.object_format(), getter(source));
  });
}

WriteSummary write_tree(vat::BlobSource& source, const ObjectId& manifest, const ObjectId& layout, int parent,
                        const std::string& name, const WriteOptions& options) {
  return TreeWriter(source, layout, options).write(manifest, parent, name);
}

void check_recipe(vat::BlobSource& source, const ObjectId& recipe, const std::optional<ObjectId>& blob,
                  std::uint64_t size) {
  const auto header = formats::find_recipe_header(source.read(recipe), source.object_format());
  if (!header || header->size != size || (blob && header->blob && header->blob != blob))
    throw Error(Category::refused, "recipe " + recipe.hex() + " is not that of the file");
}

KnownFile known_content(vat::BlobSource& source, const std::optional<ObjectId>& blob,
                        const std::optional<ObjectId>& recipe) {
  KnownFile known;
  known.blob = blob;
  known.recipe = recipe;
  if (!recipe) return known;
  const auto header = formats::find_recipe_header(source.read(*recipe), source.object_format());
  const auto parameters = header ? chunker::find_parameters(header->chunker) : std::nullopt;
  if (parameters) known.exponent = parameters->exponent;
  return known;
}

std::uint64_t write_content(vat::BlobSource& source, const std::optional<ObjectId>& blob,
                            const std::optional<ObjectId>& recipe, std::uint64_t size, bool sparse,
                            int parent, const std::string& name,
                            const std::function<void(std::uint64_t)>& progress) {
  auto fd = base::open_at(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  const auto fetched = write_content(source, blob, recipe, size, sparse, fd.get());
  if (progress) progress(size);
  fd.close();
  return fetched;
}

std::uint64_t write_content(vat::BlobSource& source, const std::optional<ObjectId>& blob,
                            const std::optional<ObjectId>& recipe, std::uint64_t size, bool sparse, int fd) {
  ContentWriter writer(fd, sparse);
  return fill(source, blob, recipe, size, writer);
}

}  // namespace wedge
