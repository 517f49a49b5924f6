// A tree of vrefs as a read-only file system, by FUSE.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "wedge/lazy_reader.h"
#include "wedge/mount_tree.h"

namespace wedge {

struct MountOptions {
  bool allow_other = false;  ///< other users may look in, as far as modes let them
  std::string name;          ///< what the table of mounts calls its source
  /// A file that holds the content of a blob, from which the kernel may read by itself; may be empty.
  std::function<std::optional<base::UniqueFd>(const base::ObjectId&)> find_file;
  /// Told, on any thread, of each read that failed: where, and why.
  std::function<void(const std::string&)> on_failure;
};

/// What was read through a mount so far.
struct MountCounts {
  std::atomic<std::uint64_t> opens = 0, reads = 0, bytes = 0, failures = 0;
};

/// One mount. Errors: local, refused if FUSE is not to be had, with a hint.
class Mount {
 public:
  /// Mounts at `directory`, whatever is there (mount_point.h); the tree is there when this returns, and
  /// answers once run() does. `tree` and `reader` outlive it.
  Mount(MountTree& tree, LazyReader& reader, const std::string& directory, const MountOptions& options);
  /// Unmounts, unless somebody else did, or mounted something in it or over it.
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  /// Answers until it is unmounted, or the process gets SIGTERM, SIGINT or SIGHUP; then it is unmounted, and
  /// whoever still waits for bytes gets an error.
  void run();
  /// Unmounts, so that run() ends. From any thread.
  void stop();
  [[nodiscard]] const MountCounts& counts() const noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wedge
