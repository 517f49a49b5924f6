// Notices that something below a directory may have changed.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "formats/base/unique_fd.h"

namespace wedge {

/// inotify on a directory and all below it. A hint: what changed, and whether anything did, is for a scan to
/// find out.
///
/// One thread at a time. Errors: local.
class DirectoryWatch {
 public:
  /// `path` must be a directory; watches are set by rescan().
  explicit DirectoryWatch(std::string path);

  /// Sets watches on directories that have none. Returns false if the system allows no more of them: then
  /// changes may go unnoticed.
  bool rescan();

  /// To be polled for reading beside other descriptors.
  [[nodiscard]] int fd() const noexcept { return inotify_.get(); }
  /// Takes in what has come. True if something may have changed; new directories are watched, and after an
  /// overflow all of them are looked for.
  bool take_events();

 private:
  bool watch(const std::string& directory);
  std::string path_;
  base::UniqueFd inotify_;
  std::map<int, std::string> directories_;  ///< by watch
};

}  // namespace wedge
