#include "shrub/internal/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace shrub::internal {
namespace {

using base::Category;
using base::Error;

struct Actions {
  Actions() { posix_spawn_file_actions_init(&raw); }
  ~Actions() { posix_spawn_file_actions_destroy(&raw); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
  posix_spawn_file_actions_t raw;
};

}  // namespace

Process::Process(const std::vector<std::string>& arguments, const std::vector<std::string>& without) {
  int to[2], from[2];
  if (::pipe2(to, O_CLOEXEC) != 0) base::throw_errno("pipe", errno);
  base::UniqueFd child_in(to[0]);
  in_ = base::UniqueFd(to[1]);
  if (::pipe2(from, O_CLOEXEC) != 0) base::throw_errno("pipe", errno);
  out_ = base::UniqueFd(from[0]);
  base::UniqueFd child_out(from[1]);

  Actions actions;
  posix_spawn_file_actions_adddup2(&actions.raw, child_in.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions.raw, child_out.get(), STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions.raw, STDERR_FILENO, "/dev/null", O_WRONLY, 0);

  std::vector<std::string> own = arguments;
  std::vector<char*> argv, environment;
  for (auto& argument : own) argv.push_back(argument.data());
  argv.push_back(nullptr);
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (std::none_of(without.begin(), without.end(),
                     [&](const auto& name) { return text.substr(0, text.find('=')) == name; }))
      environment.push_back(*variable);
  }
  environment.push_back(nullptr);
  const int failure =
      ::posix_spawnp(&pid_, own.front().c_str(), &actions.raw, nullptr, argv.data(), environment.data());
  if (failure != 0) {
    pid_ = -1;
    base::throw_errno("run " + own.front(), failure == ENOENT ? EACCES : failure);
  }
}

Process::~Process() {
  try {
    (void)finish();
  } catch (const Error&) {
    // nobody is left to be told
  }
}

void Process::write(std::string_view text) {
  base::write_all(in_.get(), base::as_bytes(text));
}

bool Process::fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const auto before = buffer_.size();
  buffer_.resize(before + 65536);
  ssize_t count;
  do {
    count = ::read(out_.get(), buffer_.data() + before, buffer_.size() - before);
  } while (count < 0 && errno == EINTR);
  buffer_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  if (count < 0) base::throw_errno("read from a child process", errno);
  return count > 0;
}

bool Process::read_until(char end, std::string& text) {
  for (std::size_t searched = at_;;) {
    const auto found = buffer_.find(end, searched);
    if (found != std::string::npos) {
      text = buffer_.substr(at_, found - at_);
      at_ = found + 1;
      return true;
    }
    const auto left = buffer_.size() - at_;
    if (!fill()) return false;
    searched = left;
  }
}

std::string Process::read_exactly(std::size_t size) {
  while (buffer_.size() - at_ < size)
    if (!fill()) throw Error(Category::local, "a child process ended early");
  auto text = buffer_.substr(at_, size);
  at_ += size;
  return text;
}

std::string Process::read_rest() {
  while (fill()) {
  }
  return buffer_.substr(std::exchange(at_, buffer_.size()));
}

int Process::finish() {
  if (pid_ < 0) return 0;
  in_.reset();
  out_.reset();
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0)
    if (errno != EINTR) base::throw_errno("wait for a child process", errno);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace shrub::internal
