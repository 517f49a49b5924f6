// Manifests: every path of a tree with its metadata and blob id. docs/formats/text-objects.md, "Manifest"
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/text/text_object.h"

namespace formats {

inline constexpr std::size_t kMaxName = 255;    ///< bytes of one path component
inline constexpr std::size_t kMaxDepth = 4096;  ///< components of a path
inline constexpr std::size_t kMaxPath = std::size_t{64} << 10;

/// Seconds since the epoch and nanoseconds after them, 0 ≤ nanoseconds < 10^9. In a row: the decimal number
/// of seconds.
struct Timestamp {
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;
  friend bool operator==(const Timestamp&, const Timestamp&) = default;
};

/// One row. Fields without meaning for the type keep their defaults.
struct Row {
  enum class Type : char {
    directory = 'd',
    file = 'f',
    symlink = 'l',
    hard_link = 'h',
    character_device = 'c',
    block_device = 'b',
    fifo = 'p'
  };
  Type type = Type::file;
  std::uint32_t mode = 0;  ///< permission, setuid, setgid and sticky bits; not for symlinks and hard links
  std::uint32_t uid = 0, gid = 0;
  Timestamp mtime;
  std::uint64_t size = 0;  ///< files only
  base::ObjectId blob;     ///< files only: whole-content id
  std::string target;      ///< symlink: its text; hard link: an earlier path; device: major:minor
  std::string path;        ///< relative; "." is the tree itself
  bool sparse = false;     ///< files only
  std::map<std::string, std::string> xattrs;  ///< name to value, any bytes

  friend bool operator==(const Row&, const Row&) = default;
};

/// Whether `path` may stand in a manifest: relative, no empty, `.` or `..` component, no NUL, within the
/// limits.
[[nodiscard]] bool is_safe_path(std::string_view path) noexcept;

/// -1, 0, 1 for two paths in manifest order: depth first, siblings by name bytes, a directory before its
/// members.
[[nodiscard]] int compare_paths(std::string_view a, std::string_view b) noexcept;

/// The directory a path lies in ("." at the top) and its last component.
[[nodiscard]] std::pair<std::string, std::string> split_path(const std::string& path);

/// Devices and fifos.
[[nodiscard]] bool is_special(const Row& row) noexcept;

/// Throws refused if no manifest can hold the row: a time that is out of range, or attributes that make its
/// line too long.
void check_row(const Row& row);
/// One row as a line without LF.
[[nodiscard]] std::string to_line(const Row& row);
/// The reverse; refused unless `line` is the canonical spelling of a row.
[[nodiscard]] Row parse_row(std::string_view line, base::ObjectFormat format);

class ManifestWriter {
 public:
  ManifestWriter(base::ObjectFormat format, PutText put);
  /// Rows in manifest order; Category::internal if not.
  void add(const Row& row);
  [[nodiscard]] base::ObjectId finish();

 private:
  base::ObjectFormat format_;
  TextWriter text_;
  std::string last_;
};

/// Reads a manifest in order. Refuses names that can escape, disorder, duplicates, rows below what is no
/// directory, hard links to what is not an earlier path. One thread at a time.
class ManifestReader {
 public:
  ManifestReader(base::Buffer root, base::ObjectFormat format, GetText get);
  [[nodiscard]] bool next(Row& row);

 private:
  base::ObjectFormat format_;
  TextReader text_;
  std::string last_;
  std::vector<std::size_t> open_;  ///< lengths of the paths of the directories that last_ lies in
  bool first_ = true;
};

}  // namespace formats
