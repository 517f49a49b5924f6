#include "shrub/cli/background.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace shrub_cli {

Background::Background() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) base::throw_errno("pipe", errno);
  base::UniqueFd read_end(ends[0]);
  ready_ = base::UniqueFd(ends[1]);
  const auto child = ::fork();
  if (child < 0) base::throw_errno("begin a process", errno);
  if (child == 0) {
    // Locks and pipes of whoever started us must not live as long as this process.
    const auto ready = static_cast<unsigned>(ready_.get());
    read_end.reset();
    if (ready > STDERR_FILENO + 1) (void)::close_range(STDERR_FILENO + 1, ready - 1, 0);
    (void)::close_range(ready + 1, ~0U, 0);
    return;
  }
  ready_.reset();
  char byte = 0;
  if (::read(read_end.get(), &byte, 1) == 1) ::_exit(0);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

void Background::leave(const std::string& log) {
  const auto nothing = base::open_at(AT_FDCWD, "/dev/null", O_RDWR);
  const auto messages = base::open_at(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  (void)::setsid();
  (void)::chdir("/");  // where it was started can be unmounted
  (void)::dup2(nothing.get(), STDIN_FILENO);
  (void)::dup2(nothing.get(), STDOUT_FILENO);
  (void)::dup2(messages.get(), STDERR_FILENO);
  (void)::write(ready_.get(), "", 1);
  ready_.reset();
  log_ = log;
}

void Background::forget_log() const {
  struct stat info {};
  if (::stat(log_.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 0)
    (void)::unlink(log_.c_str());
}

}  // namespace shrub_cli
