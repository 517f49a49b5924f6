#include "formats/base/error.h"

#include <cerrno>
#include <system_error>

namespace base {

Error prefixed(std::string_view name, const Error& error) {
  return Error(error.category(), std::string(name) + ": " + error.what(), error.hint());
}

void throw_errno(const std::string& what, int errno_value) {
  const bool absent = errno_value == ENOENT || errno_value == ENOTDIR;
  throw Error(absent ? Category::not_found : Category::local,
              what + ": " + std::generic_category().message(errno_value));
}

}  // namespace base
