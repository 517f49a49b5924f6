// Ownership of file descriptors.
#pragma once

#include <utility>

namespace base {

/// Owns one descriptor. The destructor closes quietly; a writer calls close(), because a full disk may be
/// reported there and nowhere else.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept;
  /// Closes; throws Category::local if the system reports an error.
  void close();

 private:
  int fd_ = -1;
};

}  // namespace base
