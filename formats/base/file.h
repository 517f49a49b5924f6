// Files and directories by descriptor: the few system calls this project makes, each checked once, here.
#pragma once

#include <fcntl.h>

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/unique_fd.h"

namespace base {

/// Opens `path` relative to `dir` (AT_FDCWD for the current directory) with O_CLOEXEC. Throws not_found or
/// local.
[[nodiscard]] UniqueFd open_at(int dir, const std::string& path, int flags, unsigned mode = 0666);
/// As open_at, but an absent file is an answer: nullopt. Does not wait for the other end of a fifo.
[[nodiscard]] std::optional<UniqueFd> find_open_at(int dir, const std::string& path, int flags);

/// For reading; nullopt also if it is something else than a regular file.
[[nodiscard]] std::optional<UniqueFd> find_regular_at(int dir, const std::string& path);

/// Opens a path of any length that came from outside, below `dir`: no component may be a symlink or `..`, and
/// the result is never outside `dir` (openat2 RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS; component by component
/// with O_NOFOLLOW where the kernel lacks it). `.` is `dir` itself. Throws refused if a component is a
/// symlink or no directory, not_found, local.
[[nodiscard]] UniqueFd open_beneath(int dir, std::string_view path, int flags);

/// What lies there, a symlink unless `follow`; nullopt if nothing does. Another failure throws: what cannot
/// be looked at may be there.
[[nodiscard]] std::optional<struct stat> find_stat(int dir, const std::string& path, bool follow = false);

/// `name` in the directory `dir`, for messages: with the path of that, if /proc tells it.
[[nodiscard]] std::string full_name(int dir, const std::string& name);

/// A directory for *at calls.
[[nodiscard]] UniqueFd open_directory(int dir, const std::string& path);

/// The directory `name` in `dir`, made durably if it is not there. Throws refused if it is something else, a
/// symlink included.
[[nodiscard]] UniqueFd ensure_directory(int dir, const std::string& name, unsigned mode);

/// Whether a group shares the directory and what is made in it: it is set-group-id, and the group may write.
[[nodiscard]] bool is_shared(int dir);
/// Lets the group of a file or directory do what its owner may; what is made in the directory is of that
/// group. Throws local.
void share(int fd);
/// As ensure_directory(), and as open_at() of a file to lock or to write in place, with mode 0600: shared if
/// `dir` is.
[[nodiscard]] UniqueFd ensure_directory_as_parent(int dir, const std::string& name, unsigned mode);
[[nodiscard]] UniqueFd open_as_parent(int dir, const std::string& name,
                                      int flags = O_RDWR | O_CREAT | O_NOFOLLOW);

/// Creates `path` and what is missing above it, durably. Throws refused if something else is in the way.
void make_directories(const std::string& path);

/// Reads at `offset` until `buffer` is full or the file ends; the count read. Local error for what is no
/// file.
[[nodiscard]] std::size_t read_some_at(int fd, std::uint64_t offset, MutableBytes buffer);
/// Reads exactly buffer.size() bytes at `offset`; false if the file ends before.
[[nodiscard]] bool read_exact_at(int fd, std::uint64_t offset, MutableBytes buffer);
/// read_exact_at() of that descriptor, which outlives it.
[[nodiscard]] ReadAt reader_of(int fd);
/// Reads until `buffer` is full or the file ends; the count read.
[[nodiscard]] std::size_t read_some(int fd, MutableBytes buffer);
/// Reads what is there, or waits for something; 0 at the end.
[[nodiscard]] std::size_t read_available(int fd, MutableBytes buffer);
void write_all(int fd, Bytes bytes);
/// All of them at `offset`, of a regular file.
void write_at(int fd, std::uint64_t offset, Bytes bytes);

/// A whole small file; refused if it is larger than `limit` bytes.
[[nodiscard]] std::string read_file(int dir, const std::string& path, std::size_t limit);
/// The same; an absent file is an answer.
[[nodiscard]] std::optional<std::string> find_file(int dir, const std::string& path, std::size_t limit);

[[nodiscard]] std::uint64_t file_size(int fd);

/// Names in a directory except `.` and `..`, in byte order.
[[nodiscard]] std::vector<std::string> list_directory(int dir);

void sync_file(int fd);
/// Has the system begin to write what is dirty of the file, and does not wait: a sync later finds less to do.
void begin_writeback(int fd) noexcept;
/// fsync of a directory, so that names in it survive power loss.
void sync_directory(int dir);

/// Renames, but not to a name that something has; a file system that cannot promise that (no
/// RENAME_NOREPLACE) replaces it. False: errno is set.
[[nodiscard]] bool rename_to_free_name(int from_dir, const std::string& from, int to_dir,
                                       const std::string& to) noexcept;
/// Removes `name` in `dir` and all below it, never following a symlink. An absent name is fine. Directories
/// that deny access are opened up first, as far as their owner may.
void remove_tree(int dir, const std::string& name);

/// 128 random bits in hex, for names in tmp/.
[[nodiscard]] std::string random_name();

/// `bytes` as a person reads it: 512 B, 1.5 MiB.
[[nodiscard]] std::string human_size(std::uint64_t bytes);
/// 1 pack, 2 packs; 1 entry, 2 entries. `many` is `one` and an s unless given.
[[nodiscard]] std::string counted(std::uint64_t count, const std::string& one, const std::string& many = {});

}  // namespace base
