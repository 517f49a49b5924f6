// Writing one path: the calls that make a row true, each naming one component below an open directory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/unique_fd.h"
#include "formats/text/manifest.h"
#include "wedge/tree_writer.h"

namespace wedge::internal {

/// Permission bits that are restored and compared.
[[nodiscard]] std::uint32_t restored_mode(const formats::Row& row, const Fidelity& fidelity);
/// A mode that gives nobody what the access control list among these attributes, if there is one, denies
/// somebody: group and others get what all that it names may do.
[[nodiscard]] std::uint32_t mode_within_acl(std::uint32_t mode,
                                            const std::map<std::string, std::string>& xattrs);
/// Whether an extended attribute belongs to a tree; others come from the machine it lies on.
[[nodiscard]] bool is_recorded_xattr(const std::string& name);
/// Whether an extended attribute is restored and compared.
[[nodiscard]] bool is_restored_xattr(const std::string& name, const Fidelity& fidelity);
/// Names of the extended attributes of an open file or directory; none where the file system has none.
[[nodiscard]] std::vector<std::string> list_xattrs(int fd);
/// Whether it is an access control list.
[[nodiscard]] bool is_acl(const std::string& name) noexcept;
/// Whether the row is a device or fifo that is neither restored nor compared.
[[nodiscard]] bool is_left_out(const formats::Row& row, const Fidelity& fidelity) noexcept;
/// Counts what of the row's metadata is not restored for want of a flag.
void count_skipped(const formats::Row& row, const Fidelity& fidelity, WriteSummary& summary);

/// Splits bytes that lie at `offset` of a file into runs of whole zero blocks and of others, in order.
void for_each_run(std::uint64_t offset, base::Bytes bytes,
                  const std::function<void(std::uint64_t offset, base::Bytes run, bool zero)>& on_run);

/// Writes a stream of content to a file; as a sparse one, aligned zero blocks are left out.
class ContentWriter {
 public:
  /// Begins at `offset`.
  ContentWriter(int fd, bool sparse, std::uint64_t offset = 0) : fd_(fd), sparse_(sparse), offset_(offset) {}
  void write(base::Bytes bytes);
  /// Zeros of the content: a hole of a sparse file, and written to another, which has none.
  void hole(std::uint64_t size);
  /// A hole, whatever the file is.
  void skip(std::uint64_t size);
  /// Sets the final size, which a trailing hole needs.
  void finish();
  [[nodiscard]] std::uint64_t size() const noexcept { return offset_; }

 private:
  int fd_;
  bool sparse_;
  std::uint64_t offset_;
  bool ends_in_hole_ = false;
};

/// What of a row's metadata a file system, or this user's rights, did not take.
struct Lost {
  std::uint64_t xattrs = 0;  ///< extended attributes that could not be set
  bool other = false;        ///< owner, mode or time
  [[nodiscard]] bool any() const noexcept { return other || xattrs > 0; }
};

/// Owner, attributes, mode and time of an open file or directory.
Lost set_metadata(int fd, const formats::Row& row, const Fidelity& fidelity);

/// Takes away attributes of a tree that the row does not have.
void remove_other_xattrs(int fd, const formats::Row& row, const Fidelity& fidelity);

/// The directory `path` below `top`, made with all that it lies in, mode 0700, where that is missing.
[[nodiscard]] base::UniqueFd ensure_beneath(int top, const std::string& path);

Lost make_symlink(int parent, const std::string& name, const formats::Row& row, const Fidelity& fidelity);
/// A device or fifo.
Lost make_special(int parent, const std::string& name, const formats::Row& row, const Fidelity& fidelity);
/// A second name of a file; a copy of it (other) where the file system has no links, or no more of that file.
Lost make_link(int from_dir, const std::string& from, int to_dir, const std::string& to);

}  // namespace wedge::internal
