// Reads that the kernel answers by itself, from the file that holds the very bytes: FUSE pass-through, of
// Linux 6.9 and later, which libfuse 3.14 knows nothing of. All that is by hand for it is here.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "formats/base/unique_fd.h"

struct fuse_session;

namespace wedge {

/// Thread-safety: any member but mount() and attach() from any thread.
class Passthrough {
 public:
  /// Mounts at `directory`, read-only, without help of fusermount3. nullopt if only that can; only root is
  /// let pass reads through, anyway.
  [[nodiscard]] static std::optional<base::UniqueFd> mount(const std::string& directory,
                                                           const std::string& name, bool allow_other);
  /// Has the session use the mount, and ask for pass-through. False if libfuse will not.
  [[nodiscard]] static bool attach(fuse_session* session, int fd);

  /// `fd`: the mount; outlives it.
  explicit Passthrough(int fd) : fd_(fd) {}
  Passthrough(const Passthrough&) = delete;
  Passthrough& operator=(const Passthrough&) = delete;

  /// Says that an inode is opened; `find` gives the file that holds its bytes, if there is one. 0: reads are
  /// answered here; else the number for the reply. All opens of an inode at a time are of one kind, as the
  /// kernel wants it.
  [[nodiscard]] std::int32_t open(std::uint64_t inode,
                                  const std::function<std::optional<base::UniqueFd>()>& find);
  void close(std::uint64_t inode);

  /// The reply to an open whose reads are passed through: for fuse_reply_buf().
  struct OpenReply {
    std::uint64_t handle;
    std::uint32_t flags;
    std::int32_t backing;
  };
  [[nodiscard]] static OpenReply reply(std::uint64_t handle, std::int32_t backing) noexcept;

 private:
  struct Opened {
    std::uint64_t count = 0;
    std::int32_t backing = 0;
  };
  [[nodiscard]] std::int32_t add_backing(int file) const;

  const int fd_;
  std::mutex mutex_;                        ///< guards what follows
  std::map<std::uint64_t, Opened> opened_;  ///< by inode
};

}  // namespace wedge
