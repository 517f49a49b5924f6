// The order of a tree on disk.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/unique_fd.h"

namespace wedge::internal {

/// Yields the paths below a directory in manifest order, the directory itself first as ".". Whoever takes a
/// path says whether to descend. One thread at a time.
class Walk {
 public:
  struct Entry {
    std::string path;
    unsigned char type;  ///< DT_DIR, DT_REG, …
  };
  /// Told a directory that cannot be listed.
  using Unreadable = std::function<void(const std::string& path, const std::exception_ptr&)>;
  /// Whether to yield an entry at all (and descend, if it is a directory).
  using Filter = std::function<bool(const Entry&)>;

  Walk(int top, Filter filter, Unreadable unreadable)
      : top_(top), filter_(std::move(filter)), unreadable_(std::move(unreadable)) {}
  [[nodiscard]] std::optional<Entry> next();

 private:
  struct Level {
    std::string path;  ///< empty for the top
    std::vector<std::pair<std::string, unsigned char>> names;
    std::size_t at = 0;
  };
  void open(const std::string& path);
  int top_;
  Filter filter_;
  Unreadable unreadable_;
  std::vector<Level> levels_;
  std::optional<std::string> pending_;  ///< the directory just yielded, not yet opened
  bool started_ = false;
};

/// Names in a directory with their types, in byte order.
[[nodiscard]] std::vector<std::pair<std::string, unsigned char>> list_typed(int dir);

}  // namespace wedge::internal
