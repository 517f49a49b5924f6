// A child process that is talked to through pipes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/unique_fd.h"

namespace base {

/// Runs a program found on PATH, which speaks English whatever the user's language is (LC_ALL=C). Ends with
/// its owner: pipes are closed, then it is waited for. One thread at a time. Errors: local.
class Process {
 public:
  /// `without`: environment variables that the child does not get; `with`: NAME=VALUE that it does.
  explicit Process(const std::vector<std::string>& arguments, const std::vector<std::string>& without = {},
                   std::vector<std::string> with = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void write(std::string_view text);
  /// It reads the end.
  void close_input() noexcept;
  /// Up to and without `end`; false if nothing is left.
  [[nodiscard]] bool read_until(char end, std::string& text);
  /// Exactly `size` bytes; local if the child ends before.
  [[nodiscard]] std::string read_exactly(std::size_t size);
  /// Whether there is something to be read, or the end, within that time.
  [[nodiscard]] bool wait_readable(std::chrono::milliseconds timeout);
  /// The next bytes, at most as many as fit; 0: it has closed its end.
  [[nodiscard]] std::size_t read_some(MutableBytes bytes);
  /// Everything that is left.
  [[nodiscard]] std::string read_rest();
  /// Closes the pipes and waits; the exit code, 128 + n for a signal.
  int finish();
  /// Ends it now; finish() still has to be called, or the destructor.
  void kill() noexcept;
  /// What it wrote to stderr so far, at most `size` bytes.
  [[nodiscard]] std::string errors(std::size_t size = 4096) const;

 private:
  bool fill();
  pid_t pid_ = -1;
  UniqueFd in_, out_, errors_;
  std::string buffer_;
  std::size_t at_ = 0;
};

}  // namespace base
