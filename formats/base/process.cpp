#include "formats/base/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace base {
namespace {

struct Actions {
  Actions() { posix_spawn_file_actions_init(&raw); }
  ~Actions() { posix_spawn_file_actions_destroy(&raw); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
  posix_spawn_file_actions_t raw;
};

}  // namespace

Process::Process(const std::vector<std::string>& arguments, const std::vector<std::string>& without,
                 std::vector<std::string> with) {
  int to[2], from[2];
  // A socket: writing to a child that has ended is an error, and not a signal.
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, to) != 0) throw_errno("socket pair", errno);
  UniqueFd child_in(to[0]);
  in_ = UniqueFd(to[1]);
  if (::pipe2(from, O_CLOEXEC) != 0) throw_errno("pipe", errno);
  out_ = UniqueFd(from[0]);
  UniqueFd child_out(from[1]);

  Actions actions;
  posix_spawn_file_actions_adddup2(&actions.raw, child_in.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions.raw, child_out.get(), STDOUT_FILENO);
  errors_ = UniqueFd(::memfd_create("errors", MFD_CLOEXEC));
  if (errors_.get() < 0) throw_errno("memory for a child's messages", errno);
  posix_spawn_file_actions_adddup2(&actions.raw, errors_.get(), STDERR_FILENO);

  std::vector<std::string> own = arguments;
  std::vector<char*> argv, environment;
  for (auto& argument : own) argv.push_back(argument.data());
  argv.push_back(nullptr);
  with.emplace_back("LC_ALL=C");
  const auto name_of = [](std::string_view text) { return text.substr(0, text.find('=')); };
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    const auto name = name_of(*variable);
    if (name != "LANGUAGE" && std::find(without.begin(), without.end(), name) == without.end() &&
        std::none_of(with.begin(), with.end(), [&](const auto& set) { return name_of(set) == name; }))
      environment.push_back(*variable);
  }
  for (auto& variable : with) environment.push_back(variable.data());
  environment.push_back(nullptr);
  const int failure =
      ::posix_spawnp(&pid_, own.front().c_str(), &actions.raw, nullptr, argv.data(), environment.data());
  if (failure != 0) {
    pid_ = -1;
    throw_errno("run " + own.front(), failure == ENOENT ? EACCES : failure);
  }
}

Process::~Process() {
  try {
    (void)finish();
  } catch (const Error&) {
    // nobody is left to be told
  }
}

void Process::close_input() noexcept {
  (void)::shutdown(in_.get(), SHUT_WR);
}

void Process::write(std::string_view text) {
  while (!text.empty()) {
    const auto count = ::send(in_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("write to a child process", errno);
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

bool Process::fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const auto before = buffer_.size();
  buffer_.resize(before + 65536);
  const auto count = read_available(
      out_.get(), {reinterpret_cast<std::byte*>(buffer_.data()) + before, buffer_.size() - before});
  buffer_.resize(before + count);
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

bool Process::wait_readable(std::chrono::milliseconds timeout) {
  if (at_ < buffer_.size()) return true;
  pollfd readable{out_.get(), POLLIN, 0};
  const int ready = ::poll(&readable, 1, static_cast<int>(timeout.count()));
  if (ready < 0 && errno != EINTR) throw_errno("wait for a child process", errno);
  return ready > 0;
}

std::size_t Process::read_some(MutableBytes bytes) {
  if (at_ == buffer_.size()) return read_available(out_.get(), bytes);
  const auto count = std::min(bytes.size(), buffer_.size() - at_);
  std::copy_n(as_bytes(buffer_).begin() + static_cast<std::ptrdiff_t>(at_), count, bytes.begin());
  at_ += count;
  return count;
}

std::string Process::read_rest() {
  while (fill()) {
  }
  return buffer_.substr(std::exchange(at_, buffer_.size()));
}

void Process::kill() noexcept {
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

std::string Process::errors(std::size_t size) const {
  Buffer text(size);
  text.resize(read_some_at(errors_.get(), 0, text));
  return std::string(as_chars(text));
}

int Process::finish() {
  if (pid_ < 0) return 0;
  in_.reset();
  out_.reset();
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0)
    if (errno != EINTR) throw_errno("wait for a child process", errno);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace base
