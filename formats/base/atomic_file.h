// The write protocol: how a file comes to exist under its final name, complete and durable, or not at all.
#pragma once

#include <cstdint>
#include <string>

#include "formats/base/bytes.h"
#include "formats/base/unique_fd.h"

namespace base {

/// A file being written under a random name in a temporary directory of the same file system.
///
///   open → write… → publish: fsync, rename to the final name, fsync of the directory
///
/// The temporary is locked (flock) while its writer lives, so remove_leftovers() can tell a dead writer's
/// file from one at work. In a directory that a group shares (base::is_shared) the group may do with the file
/// what its owner may, unless `mode` is 0600. Destroying an unpublished file removes it. One thread at a
/// time.
class AtomicFile {
 public:
  enum class Existing { keep, replace };
  enum class Durability {
    durable,
    losable
  };  ///< losable: after a power loss it may be empty, cut off or absent

  /// Creates the temporary in `tmp_dir`, a descriptor that must outlive this object.
  explicit AtomicFile(int tmp_dir, unsigned mode = 0666);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(Bytes bytes);
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  /// Makes the file durable as `name` in `directory`. With Existing::keep a file already there stays and this
  /// one is dropped (false is returned); with Existing::replace it takes its place. A failed fsync is final.
  bool publish(int directory, const std::string& name, Existing existing,
               Durability durability = Durability::durable);

 private:
  int tmp_dir_;
  std::uint64_t pending_ = 0;  ///< bytes since the system was asked to begin writing
  std::string tmp_name_;       ///< empty once published
  UniqueFd fd_;
};

/// Writes `content` as `name` in `directory`, replacing what is there, through a temporary beside it.
void write_file_atomically(int directory, const std::string& name, Bytes content, unsigned mode = 0666,
                           AtomicFile::Durability durability = AtomicFile::Durability::durable);

/// Removes files in `tmp_dir` whose writer is gone; what cannot be removed is left.
void remove_leftovers(int tmp_dir) noexcept;

}  // namespace base
