// A program that runs beside this process and ends with it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "formats/base/unique_fd.h"
#include "shrub/cli/signals.h"

namespace shrub_cli {

/// Wakes who polls. Thread-safety: any member from any thread. Errors: local.
class Notice {
 public:
  Notice();
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  void notify() const noexcept;
  void take() const noexcept;

 private:
  base::UniqueFd fd_;
};

/// One thread at a time. Errors: local.
class Child {
 public:
  /// Runs a program of PATH on the terminal of this process. It is killed when this process ends, whatever
  /// ends that. `hint`: what to do if there is no such program.
  explicit Child(std::vector<std::string> arguments, const std::string& hint);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  struct Ended {
    int status = 0;  ///< as wait() has it
    int signal = 0;  ///< that this process got; 0: none
  };
  /// Waits until it has ended; a notice or a signal ends it.
  [[nodiscard]] Ended wait(const Signals& signals, const Notice& notice);

 private:
  pid_t pid_ = -1;
  base::UniqueFd handle_;
};

}  // namespace shrub_cli
