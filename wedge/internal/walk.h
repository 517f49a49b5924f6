// The order of a tree on disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/unique_fd.h"

namespace wedge::internal {

/// A directory that is open for as long as somebody has to do with what lies in it.
using SharedDirectory = std::shared_ptr<const base::UniqueFd>;

/// Yields the paths below a directory in manifest order, the directory itself first as ".". Whoever takes a
/// path says whether to descend. Symlinks are never followed. One thread at a time.
class Walk {
 public:
  struct Entry {
    std::string path;
    unsigned char type;                      ///< DT_DIR, DT_REG, …
    SharedDirectory parent;                  ///< nullptr if too many directories are open; see open_parent()
    [[nodiscard]] std::string name() const;  ///< in its parent
  };
  /// The directory an entry lies in; of ".", itself. Any thread.
  [[nodiscard]] static SharedDirectory open_parent(int top, const Entry& entry);
  /// Told a directory that cannot be listed.
  using Unreadable = std::function<void(const std::string& path, const std::exception_ptr&)>;
  /// What to yield: nothing of an entry, a directory without what it holds, or all.
  enum class Take : std::uint8_t { nothing, itself, all };
  using Filter = std::function<Take(const Entry&)>;

  Walk(int top, Filter filter, Unreadable unreadable)
      : top_(top), filter_(std::move(filter)), unreadable_(std::move(unreadable)) {}
  [[nodiscard]] std::optional<Entry> next();

 private:
  struct Level {
    std::string path;           ///< empty for the top
    SharedDirectory directory;  ///< nullptr if it was closed meanwhile
    std::vector<std::pair<std::string, unsigned char>> names;
    std::size_t at = 0;
  };
  void descend(const Entry& entry);
  SharedDirectory share(base::UniqueFd fd) const;
  int top_;
  Filter filter_;
  Unreadable unreadable_;
  std::vector<Level> levels_;
  std::optional<Entry> pending_;  ///< the directory just yielded, not yet opened
  bool started_ = false;
  std::shared_ptr<std::atomic<int>> open_ =
      std::make_shared<std::atomic<int>>(0);  ///< directories somebody holds, who may outlive the walk
};

}  // namespace wedge::internal
