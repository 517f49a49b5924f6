// Being asked to end, for verbs that go on until they are.
#pragma once

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

#include "formats/base/error.h"
#include "formats/base/unique_fd.h"

namespace shrub_cli {

/// SIGINT and SIGTERM come through a descriptor while this lives. Threads that are started then are not
/// interrupted by them either.
class Signals {
 public:
  Signals() {
    ::sigemptyset(&set_);
    ::sigaddset(&set_, SIGINT);
    ::sigaddset(&set_, SIGTERM);
    (void)::pthread_sigmask(SIG_BLOCK, &set_, &before_);
    fd_ = base::UniqueFd(::signalfd(-1, &set_, SFD_CLOEXEC));
    if (!fd_) base::throw_errno("signalfd", errno);
  }
  ~Signals() { (void)::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// Waits for one of them, and says which.
  [[nodiscard]] int wait() const {
    while (true)
      if (const int signal = take(); signal != 0) return signal;
  }
  [[nodiscard]] int take() const {
    signalfd_siginfo info{};
    return ::read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  sigset_t set_{}, before_{};
  base::UniqueFd fd_;
};

}  // namespace shrub_cli
