// A command that goes on in the background.
#pragma once

#include <string>

#include "formats/base/unique_fd.h"

namespace shrub_cli {

/// The process that goes on in the background. The one that the user waits for ends when the other is ready,
/// or with its exit code. Errors: local.
class Background {
 public:
  /// Returns in the new process only, which has no descriptors but 0 to 2. Before any thread is started, and any
  /// file opened.
  Background();
  /// Lets go of the terminal and of the working directory; what is said from here on goes to the file `log`.
  void leave(const std::string& log);
  /// Removes the log if nothing was said.
  void forget_log() const;

 private:
  base::UniqueFd ready_;
  std::string log_;
};

}  // namespace shrub_cli
