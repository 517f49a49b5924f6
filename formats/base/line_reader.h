// Reads a file line by line, in memory of one line and a buffer.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "formats/base/file.h"

namespace base {

class LineReader {
 public:
  explicit LineReader(UniqueFd fd) : fd_(std::move(fd)), buffer_(std::size_t{64} << 10) {}

  /// The next line without its newline; false at the end. What follows the last newline is no line.
  [[nodiscard]] bool next(std::string& line) {
    line.clear();
    while (true) {
      const auto newline = rest_.find('\n');
      line.append(rest_.substr(0, newline));
      if (newline != std::string_view::npos) {
        rest_.remove_prefix(newline + 1);
        return true;
      }
      rest_ = as_chars(Bytes(buffer_).first(read_some(fd_.get(), buffer_)));
      if (rest_.empty()) return false;
    }
  }

 private:
  UniqueFd fd_;
  Buffer buffer_;
  std::string_view rest_;
};

}  // namespace base
