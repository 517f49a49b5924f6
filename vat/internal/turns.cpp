#include "vat/internal/turns.h"

#include <fcntl.h>

#include <chrono>
#include <thread>

#include "formats/base/endian.h"

namespace vat::internal {
namespace {

constexpr std::chrono::milliseconds kPoll{50}, kPatience{3000};

/// Two bytes of the file stand for a root: the first is locked by who fetches it, the second by who waits.
std::uint64_t place_of(const base::ObjectId& root) {
  return (base::load_le<std::uint64_t>(root.raw().data()) >> 3) * 2;
}

/// Locks belong to the open file, not to the process: two sets of peers in one process are two.
bool set_lock(int fd, std::uint64_t place, int type) {
  struct flock lock {};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(place);
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

}  // namespace

void Turns::take(const base::ObjectId& root, const std::function<std::uint64_t()>& progress,
                 const std::function<bool()>& is_over) {
  const auto place = place_of(root);
  if (!set_lock(file_.get(), place, F_WRLCK)) {
    (void)set_lock(file_.get(), place + 1, F_RDLCK);
    auto last = progress();
    auto since = std::chrono::steady_clock::now();
    bool is_ours = false;
    while (!is_over() && !(is_ours = set_lock(file_.get(), place, F_WRLCK))) {
      std::this_thread::sleep_for(kPoll);
      const auto now = std::chrono::steady_clock::now();
      if (const auto got = progress(); got != last) {
        last = got;
        since = now;
      }
      if (now - since > kPatience) break;
    }
    (void)set_lock(file_.get(), place + 1, F_UNLCK);
    if (!is_ours) return;
  }
  ours_.push_back(place);
}

bool Turns::is_awaited() const {
  for (const auto place : ours_) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(place + 1);
    lock.l_len = 1;
    if (::fcntl(file_.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK) return true;
  }
  return false;
}

void Turns::release() {
  for (const auto place : ours_) (void)set_lock(file_.get(), place, F_UNLCK);
  ours_.clear();
}

}  // namespace vat::internal
