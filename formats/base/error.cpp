#include "formats/base/error.h"

#include <cerrno>
#include <system_error>

namespace base {

Error prefixed(std::string_view name, const Error& error) {
  return Error(error.category(), std::string(name) + ": " + error.what(), error.hint(), error.is_no_room());
}

void throw_errno(const std::string& what, int errno_value) {
  const bool absent = errno_value == ENOENT || errno_value == ENOTDIR;
  const bool is_no_room = errno_value == ENOSPC || errno_value == EDQUOT || errno_value == EFBIG;
  throw Error(absent ? Category::not_found : Category::local,
              what + ": " + std::generic_category().message(errno_value), {}, is_no_room);
}

}  // namespace base
