#define FUSE_USE_VERSION 35
#include "wedge/fuse/mount.h"

#include <fuse3/fuse_lowlevel.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/mounts.h"
#include "wedge/fuse/mount_point.h"
#include "wedge/fuse/passthrough.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;

/// What is named by content never changes, so the kernel may keep it.
constexpr double kForever = std::numeric_limits<std::int32_t>::max();
constexpr unsigned kMaxRead = 1U << 20;  ///< bytes of one request, as far as the kernel goes along

struct OpenFile {
  LazyReader::FilePtr file;  ///< nullptr: the kernel reads it
};

}  // namespace

class Mount::Impl {
 public:
  Impl(MountTree& tree, LazyReader& reader, const std::string& directory, const MountOptions& options)
      : tree_(tree), reader_(reader), options_(options), directory_(directory) {
    std::vector<std::string> arguments{
        "shrub", "-o", "ro,nosuid,nodev,default_permissions,subtype=shrub,fsname=" + escaped(options.name)};
    if (options.allow_other) arguments.back() += ",allow_other";
    std::vector<char*> pointers;
    for (auto& argument : arguments) pointers.push_back(argument.data());
    fuse_args args = FUSE_ARGS_INIT(static_cast<int>(pointers.size()), pointers.data());
    const auto operations = make_operations();
    session_ = fuse_session_new(&args, &operations, sizeof operations, this);
    fuse_opt_free_args(&args);
    if (session_ == nullptr) throw Error(Category::local, "FUSE: cannot begin");
    device_ = Passthrough::mount(directory, options.name, options.allow_other).value_or(base::UniqueFd());
    if (device_.get() >= 0 && Passthrough::attach(session_, device_.get())) {
      passthrough_.emplace(device_.release());  // the session closes it
    } else if (device_.get() >= 0) {
      if (const auto id = find_mount_at(directory)) (void)wedge::unmount(directory, *id);
      device_.reset();
    }
    if (fuse_set_signal_handlers(session_) != 0 ||
        (!passthrough_ && fuse_session_mount(session_, directory.c_str()) != 0)) {
      is_mounted_ = passthrough_.has_value();
      id_ = find_mount_at(directory);
      unmount();
      fuse_remove_signal_handlers(session_);
      fuse_session_destroy(session_);
      throw Error(Category::local, "cannot mount at " + directory,
                  "is fuse3 installed, and /dev/fuse there? shrub sync needs neither");
    }
    id_ = find_mount_at(directory);
    read_far_ahead();
  }

  ~Impl() {
    unmount();
    fuse_remove_signal_handlers(session_);
    fuse_session_destroy(session_);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void stop() {
    fuse_session_exit(session_);
    unmount();
  }

  void run() {
    fuse_loop_config config{};
    config.clone_fd = 1;
    config.max_idle_threads = 16;
    const int ended = fuse_session_loop_mt(session_, &config);
    unmount();
    if (ended == -1) throw Error(Category::local, "FUSE: cannot start a thread");
    if (ended < 0 && ended != -ENODEV && ended != -ECONNABORTED)  // which is how somebody else ends it
      throw Error(Category::local, std::string("FUSE: ") + std::strerror(-ended));
  }

  MountCounts counts_;

 private:
  /// The kernel reads 128 KiB ahead unless root tells it otherwise.
  void read_far_ahead() const {
    for (const auto& mount : base::read_mounts())
      if (id_ && id_->id == mount.id)
        std::ofstream("/sys/class/bdi/" + std::to_string(major(mount.device)) + ":" +
                      std::to_string(minor(mount.device)) + "/read_ahead_kb")
            << (kMaxRead >> 10);
  }

  /// Whether somebody has unmounted it: what is at its place now is not ours.
  [[nodiscard]] bool is_over() const {
    pollfd device{fuse_session_fd(session_), 0, 0};
    return ::poll(&device, 1, 0) > 0 && (device.revents & POLLERR) != 0;
  }

  void unmount() {
    if (!is_mounted_.exchange(false) || is_over() || !id_) return;
    if (wedge::unmount(directory_, *id_) != Unmounted::done && options_.on_failure)
      options_.on_failure(directory_ +
                          ": something is mounted in or over this mount, so it stays, without answers");
  }
  static std::string escaped(const std::string& name) {
    std::string text;
    for (const char c : name) {
      if (c == ',' || c == '\\') text += '\\';
      text += c;
    }
    return text;
  }
  static Impl& self(fuse_req_t request) { return *static_cast<Impl*>(fuse_req_userdata(request)); }

  /// Answers with an error if `answer` throws.
  template <typename Answer>
  static void guarded(fuse_req_t request, fuse_ino_t inode, Answer&& answer) {
    auto& mount = self(request);
    int code = EIO;
    std::string why;
    try {
      return answer(mount);
    } catch (const Error& error) {
      if (error.category() == Category::busy) code = EINTR;
      why = error.what();
    } catch (const std::exception& error) {
      why = error.what();
    }
    fuse_reply_err(request, code);
    if (code == EINTR) return;
    ++mount.counts_.failures;
    if (!mount.options_.on_failure) return;
    std::string path;
    try {
      path = mount.tree_.path_of(inode) + ": ";
    } catch (const std::exception&) {  // it is what could not be read
    }
    mount.options_.on_failure(path + why);
  }

  [[nodiscard]] std::optional<base::UniqueFd> find_file(MountTree::Inode inode) {
    const auto blob = tree_.find_blob(inode);
    return blob && options_.find_file ? options_.find_file(*blob) : std::nullopt;
  }

  [[nodiscard]] LazyReader::FilePtr open_lazily(MountTree::Inode inode, std::uint64_t size) {
    return reader_.open(size, [&tree = tree_, inode]() -> LazyReader::Made {
      auto content = tree.content_of(inode);
      return {std::move(content.blob), std::move(content.recipe)};
    });
  }

  /// With the blocks that its holes leave, so that copying programs look for them.
  [[nodiscard]] struct stat stat_of(MountTree::Inode inode) {
    auto info = tree_.stat_of(inode);
    if (!tree_.may_have_holes(inode)) return info;
    const std::lock_guard lock(blocks_mutex_);
    auto known = blocks_.find(inode);
    if (known == blocks_.end()) {
      try {
        const auto data = reader_.data_size(open_lazily(inode, static_cast<std::uint64_t>(info.st_size)));
        known = blocks_.emplace(inode, static_cast<blkcnt_t>((data + 511) / 512)).first;
      } catch (const Error&) {
        return info;  // what it is made of cannot be had now; whoever reads it hears why
      }
    }
    info.st_blocks = known->second;
    return info;
  }

  [[nodiscard]] fuse_entry_param entry_of(MountTree::Inode inode) {
    fuse_entry_param entry{};
    entry.ino = inode;
    entry.attr = stat_of(inode);
    entry.attr_timeout = entry.entry_timeout = kForever;
    return entry;
  }

  static void init(void* mount, fuse_conn_info* connection) {
    if ((connection->capable & FUSE_CAP_POSIX_ACL) != 0) {
      connection->want |= FUSE_CAP_POSIX_ACL;
      static_cast<Impl*>(mount)->tree_.let_lists_be_kept();
    }
    connection->max_readahead = kMaxRead;
    for (const auto wanted : {FUSE_CAP_ASYNC_READ, FUSE_CAP_PARALLEL_DIROPS, FUSE_CAP_READDIRPLUS,
                              FUSE_CAP_CACHE_SYMLINKS, FUSE_CAP_NO_OPENDIR_SUPPORT})
      if ((connection->capable & static_cast<unsigned>(wanted)) != 0)
        connection->want |= static_cast<unsigned>(wanted);
    connection->want &= ~static_cast<unsigned>(FUSE_CAP_READDIRPLUS_AUTO);
  }

  static void lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
    guarded(request, parent, [&](Impl& mount) {
      const auto inode = mount.tree_.find(parent, name);
      if (inode == 0) {
        fuse_entry_param none{};
        none.entry_timeout = kForever;
        fuse_reply_entry(request, &none);
        return;
      }
      const auto entry = mount.entry_of(inode);
      fuse_reply_entry(request, &entry);
    });
  }

  static void getattr(fuse_req_t request, fuse_ino_t inode, fuse_file_info* /*file*/) {
    guarded(request, inode, [&](Impl& mount) {
      const auto info = mount.stat_of(inode);
      fuse_reply_attr(request, &info, kForever);
    });
  }

  static void readlink(fuse_req_t request, fuse_ino_t inode) {
    guarded(request, inode,
            [&](Impl& mount) { fuse_reply_readlink(request, mount.tree_.target_of(inode).c_str()); });
  }

  static void open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
    if ((file->flags & O_ACCMODE) != O_RDONLY) {
      fuse_reply_err(request, EROFS);
      return;
    }
    guarded(request, inode, [&](Impl& mount) {
      const auto size = static_cast<std::uint64_t>(mount.tree_.stat_of(inode).st_size);
      auto opened = std::make_unique<OpenFile>();
      const auto handle = reinterpret_cast<std::uint64_t>(opened.get());
      ++mount.counts_.opens;
      if (mount.passthrough_) {
        const auto backing = mount.passthrough_->open(inode, [&] { return mount.find_file(inode); });
        if (backing != 0) {
          const auto reply = Passthrough::reply(handle, backing);
          if (fuse_reply_buf(request, reinterpret_cast<const char*>(&reply), sizeof reply) == 0)
            (void)opened.release();
          else
            mount.passthrough_->close(inode);
          return;
        }
      }
      opened->file = mount.open_lazily(inode, size);
      file->fh = handle;
      file->keep_cache = 1;
      if (fuse_reply_open(request, file) == 0)
        (void)opened.release();
      else if (mount.passthrough_)
        mount.passthrough_->close(inode);
    });
  }

  static void release(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
    if (auto& passthrough = self(request).passthrough_) passthrough->close(inode);
    const std::unique_ptr<OpenFile> opened(reinterpret_cast<OpenFile*>(file->fh));
    fuse_reply_err(request, 0);
  }

  static void read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
                   fuse_file_info* file) {
    guarded(request, inode, [&](Impl& mount) {
      auto& opened = *reinterpret_cast<OpenFile*>(file->fh);
      thread_local base::Buffer buffer;
      buffer.resize(size);
      const auto count = mount.reader_.read(opened.file, static_cast<std::uint64_t>(offset), buffer, [&] {
        return fuse_req_interrupted(request) != 0 || fuse_session_exited(mount.session_) != 0;
      });
      ++mount.counts_.reads;
      mount.counts_.bytes += count;
      fuse_reply_buf(request, reinterpret_cast<const char*>(buffer.data()), count);
    });
  }

  /// SEEK_DATA and SEEK_HOLE; the kernel does the others.
  static void lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence, fuse_file_info* file) {
    guarded(request, inode, [&](Impl& mount) {
      const auto size = static_cast<std::uint64_t>(mount.tree_.stat_of(inode).st_size);
      auto at = static_cast<std::uint64_t>(offset);
      if (offset < 0 || at >= size || (whence != SEEK_DATA && whence != SEEK_HOLE)) {
        fuse_reply_err(request, offset >= 0 && at >= size ? ENXIO : EINVAL);
        return;
      }
      const auto& opened = *reinterpret_cast<OpenFile*>(file->fh);
      const auto content = opened.file != nullptr ? opened.file : mount.open_lazily(inode, size);
      while (at < size) {
        const auto run = mount.reader_.run_at(content, at);
        if (run.is_hole == (whence == SEEK_HOLE)) break;
        at = run.end;
      }
      if (at < size || whence == SEEK_HOLE)
        fuse_reply_lseek(request, static_cast<off_t>(at));
      else
        fuse_reply_err(request, ENXIO);
    });
  }

  /// Cookies are positions among the members, after "." and "..": the same at any time.
  static void list(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset, bool plus) {
    guarded(request, inode, [&](Impl& mount) {
      std::vector<char> out(size);
      std::size_t used = 0;
      auto next = static_cast<std::size_t>(offset);
      const auto add = [&](const char* name, MountTree::Inode member, bool with_entry) {
        const auto entry = mount.entry_of(member);
        std::size_t needed;
        if (plus) {
          auto told = entry;
          if (!with_entry) told.ino = 0;  // no lookup is counted for "." and ".."
          needed = fuse_add_direntry_plus(request, out.data() + used, size - used, name, &told,
                                          static_cast<off_t>(next + 1));
        } else {
          needed = fuse_add_direntry(request, out.data() + used, size - used, name, &entry.attr,
                                     static_cast<off_t>(next + 1));
        }
        if (needed > size - used) return false;
        used += needed;
        ++next;
        return true;
      };
      bool more = true;
      if (next == 0) more = add(".", inode, false);
      if (more && next == 1) more = add("..", mount.tree_.parent_of(inode), false);
      if (more)
        mount.tree_.list(inode, next - 2, [&](std::string_view name, MountTree::Inode member) {
          return add(std::string(name).c_str(), member, true);
        });
      fuse_reply_buf(request, out.data(), used);
    });
  }
  static void readdir(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
                      fuse_file_info* /*file*/) {
    list(request, inode, size, offset, false);
  }
  static void readdirplus(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
                          fuse_file_info* /*file*/) {
    list(request, inode, size, offset, true);
  }
  static void opendir(fuse_req_t request, fuse_ino_t /*inode*/, fuse_file_info* file) {
    file->keep_cache = 1;
    file->cache_readdir = 1;
    fuse_reply_open(request, file);
  }

  static void statfs(fuse_req_t request, fuse_ino_t /*inode*/) {
    guarded(request, MountTree::kTop, [&](Impl& mount) {
      struct statvfs info {};
      info.f_bsize = info.f_frsize = 4096;
      info.f_namemax = formats::kMaxName;
      std::uint64_t size = 0;
      for (const auto& entry : mount.tree_.entries()) size += entry.root.size;
      info.f_blocks = (size + 4095) / 4096;
      info.f_flag = ST_RDONLY | ST_NOSUID | ST_NODEV;
      fuse_reply_statfs(request, &info);
    });
  }

  static void reply_bytes(fuse_req_t request, std::string_view bytes, std::size_t size) {
    if (size == 0)
      fuse_reply_xattr(request, bytes.size());
    else if (bytes.size() > size)
      fuse_reply_err(request, ERANGE);
    else
      fuse_reply_buf(request, bytes.data(), bytes.size());
  }

  static void getxattr(fuse_req_t request, fuse_ino_t inode, const char* name, std::size_t size) {
    guarded(request, inode, [&](Impl& mount) {
      const auto& xattrs = mount.tree_.xattrs_of(inode);
      const auto known = xattrs.find(name);
      if (known == xattrs.end())
        fuse_reply_err(request, ENODATA);
      else
        reply_bytes(request, known->second, size);
    });
  }

  static void listxattr(fuse_req_t request, fuse_ino_t inode, std::size_t size) {
    guarded(request, inode, [&](Impl& mount) {
      std::string names;
      for (const auto& [name, value] : mount.tree_.xattrs_of(inode)) names.append(name).push_back('\0');
      reply_bytes(request, names, size);
    });
  }

  static fuse_lowlevel_ops make_operations() {
    fuse_lowlevel_ops operations{};
    operations.init = init;
    operations.lookup = lookup;
    operations.getattr = getattr;
    operations.readlink = readlink;
    operations.open = open;
    operations.release = release;
    operations.read = read;
    operations.lseek = lseek;
    operations.opendir = opendir;
    operations.readdir = readdir;
    operations.readdirplus = readdirplus;
    operations.statfs = statfs;
    operations.getxattr = getxattr;
    operations.listxattr = listxattr;
    return operations;
  }

  std::mutex blocks_mutex_;
  std::map<MountTree::Inode, blkcnt_t> blocks_;  ///< of files that may have holes
  MountTree& tree_;
  LazyReader& reader_;
  const MountOptions options_;
  fuse_session* session_ = nullptr;
  std::atomic<bool> is_mounted_ = true;
  base::UniqueFd device_;  ///< if it was mounted by hand
  const std::string directory_;
  std::optional<MountId> id_;
  std::optional<Passthrough> passthrough_;
};

Mount::Mount(MountTree& tree, LazyReader& reader, const std::string& directory, const MountOptions& options)
    : impl_(std::make_unique<Impl>(tree, reader, directory, options)) {}
Mount::~Mount() = default;

void Mount::stop() {
  impl_->stop();
}

void Mount::run() {
  impl_->run();
}
const MountCounts& Mount::counts() const noexcept {
  return impl_->counts_;
}

}  // namespace wedge
