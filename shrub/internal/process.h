// A child process that is talked to through pipes.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "formats/base/unique_fd.h"

namespace shrub::internal {

/// Runs a program found on PATH; its stderr goes nowhere. Ends with its owner: pipes are closed, then it is
/// waited for. One thread at a time. Errors: local.
class Process {
 public:
  /// `without`: environment variables that the child does not get.
  Process(const std::vector<std::string>& arguments, const std::vector<std::string>& without);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void write(std::string_view text);
  /// Up to and without `end`; false if nothing is left.
  [[nodiscard]] bool read_until(char end, std::string& text);
  /// Exactly `size` bytes; local if the child ends before.
  [[nodiscard]] std::string read_exactly(std::size_t size);
  /// Everything that is left.
  [[nodiscard]] std::string read_rest();
  /// Closes the pipes and waits; the exit code, 128 + n for a signal.
  int finish();

 private:
  bool fill();
  pid_t pid_ = -1;
  base::UniqueFd in_, out_;
  std::string buffer_;
  std::size_t at_ = 0;
};

}  // namespace shrub::internal
