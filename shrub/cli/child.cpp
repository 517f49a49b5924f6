#include "shrub/cli/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "formats/base/error.h"

namespace shrub_cli {

using base::Category;
using base::Error;

Notice::Notice() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_.get() < 0) base::throw_errno("eventfd", errno);
}

void Notice::notify() const noexcept {
  (void)::eventfd_write(fd_.get(), 1);
}

void Notice::take() const noexcept {
  eventfd_t count = 0;
  (void)::eventfd_read(fd_.get(), &count);
}

Child::Child(std::vector<std::string> arguments, const std::string& hint) {
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) base::throw_errno("pipe", errno);
  const base::UniqueFd read_end(ends[0]);
  base::UniqueFd write_end(ends[1]);
  const auto parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) base::throw_errno("begin a process", errno);
  if (pid_ == 0) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t none;
    ::sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, nullptr);
    if (::getppid() == parent) ::execvp(argv.front(), argv.data());
    const int failure = errno;
    (void)::write(write_end.get(), &failure, sizeof failure);
    ::_exit(127);
  }
  write_end.reset();
  int failure = 0;
  if (::read(read_end.get(), &failure, sizeof failure) == sizeof failure) {
    (void)::waitpid(pid_, nullptr, 0);
    if (failure == ENOENT) throw Error(Category::local, "no " + arguments.front() + " on PATH", hint);
    base::throw_errno("run " + arguments.front(), failure);
  }
  handle_ = base::UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (handle_.get() < 0) base::throw_errno("pidfd_open", errno);
}

Child::~Child() {
  if (pid_ <= 0) return;
  (void)::kill(pid_, SIGKILL);
  (void)::waitpid(pid_, nullptr, 0);
}

Child::Ended Child::wait(const Signals& signals, const Notice& notice) {
  Ended ended;
  while (true) {
    pollfd fds[] = {{handle_.get(), POLLIN, 0}, {signals.fd(), POLLIN, 0}, {notice.fd(), POLLIN, 0}};
    if (::poll(fds, 3, -1) < 0 && errno != EINTR) base::throw_errno("poll", errno);
    if (fds[2].revents & POLLIN) {
      notice.take();
      (void)::kill(pid_, SIGTERM);
    }
    if (fds[1].revents & POLLIN) {
      ended.signal = signals.take();
      (void)::kill(pid_, SIGTERM);
    }
    if (fds[0].revents == 0) continue;
    (void)::waitpid(pid_, &ended.status, 0);
    pid_ = -1;
    return ended;
  }
}

}  // namespace shrub_cli
