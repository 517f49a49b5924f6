#include "formats/base/unique_fd.h"

#include <unistd.h>

#include <cerrno>

#include "formats/base/error.h"

namespace base {

void UniqueFd::reset() noexcept {
  if (fd_ >= 0) (void)::close(fd_);
  fd_ = -1;
}

void UniqueFd::close() {
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0) throw_errno("close", errno);
}

}  // namespace base
