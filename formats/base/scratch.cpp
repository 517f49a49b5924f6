#include "formats/base/scratch.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "formats/base/file.h"

namespace base {
namespace {

[[noreturn]] void refuse(int errno_value) {
  throw Error(Category::local, std::generic_category().message(errno_value), {}, true);
}

}  // namespace

void ScratchFailures::add(const ScratchPlace& place, const Error& error) {
  text_ += (text_.empty() ? "" : "; ") + place.path + " (" + place.name + "): " + error.what();
}

void ScratchFailures::report() const {
  throw Error(Category::local, "no place for scratch: " + (text_.empty() ? "none is named" : text_),
              "let TMPDIR name a directory with room");
}

UniqueFd open_nameless(const std::string& directory) {
  UniqueFd fd(::open(directory.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
  if (fd.get() >= 0) return fd;
  // Not every file system, nor every kernel below it, has such files.
  const auto path = directory + "/" + random_name();
  fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (fd.get() < 0) refuse(errno);
  (void)::unlink(path.c_str());
  return fd;
}

std::string make_scratch_directory(const std::string& directory) {
  auto path = directory + "/scratch-" + random_name();
  if (::mkdir(path.c_str(), 0700) != 0) refuse(errno);
  return path;
}

}  // namespace base
