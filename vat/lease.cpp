#include "vat/lease.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <string_view>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/vat_impl.h"

namespace vat {
namespace {

constexpr std::size_t kMaxLease = 32;

}  // namespace

Lease::Lease(Vat& vat, bool adds) {
  const int top = vat.impl().dir.get();
  try {
    directory_ = internal::open_own(top, internal::kLocal, "leases");
    (void)internal::find_oldest_lease(top);  // takes away what was left
    // Whoever looks for those that were left may take it for one before it is locked.
    for (struct stat info{}; info.st_nlink == 0;) {
      name_ = base::random_name();
      file_ = base::open_as_parent(directory_.get(), name_, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW);
      if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) continue;
      if (::fstat(file_.get(), &info) != 0) base::throw_errno("stat", errno);
    }
    base::write_all(file_.get(), base::as_bytes(std::to_string(std::time(nullptr)) + "\n"));
  } catch (const base::Error&) {
    file_.reset();
    // A vat that is only read; nobody deletes from it here either.
    if (adds && ::faccessat(top, "local", W_OK, AT_EACCESS) == 0) throw;
  }
}

Lease::Lease(Lease&& other) noexcept
    : directory_(std::move(other.directory_)), file_(std::move(other.file_)), name_(std::move(other.name_)) {}

Lease::~Lease() {
  if (file_.get() >= 0) (void)::unlinkat(directory_.get(), name_.c_str(), 0);
}

namespace internal {

std::optional<std::int64_t> find_oldest_lease(int vat) {
  std::optional<std::int64_t> oldest;
  const auto leases = base::find_open_at(vat, "local/leases", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!leases) return oldest;
  for (const auto& name : base::list_directory(leases->get())) {
    const auto file = base::find_regular_at(leases->get(), name);
    if (!file) continue;
    if (::flock(file->get(), LOCK_EX | LOCK_NB) == 0) {  // its process is gone
      (void)::unlinkat(leases->get(), name.c_str(), 0);
      continue;
    }
    std::string text(kMaxLease, '\0');
    text.resize(base::read_some(file->get(), {reinterpret_cast<std::byte*>(text.data()), text.size()}));
    const auto since = base::parse_decimal(text.substr(0, text.find('\n')));
    // One that says nothing is as old as can be.
    const auto begun = since ? static_cast<std::int64_t>(std::min<std::uint64_t>(*since, INT64_MAX)) : 0;
    oldest = std::min(oldest.value_or(begun), begun);
  }
  return oldest;
}

}  // namespace internal

}  // namespace vat
