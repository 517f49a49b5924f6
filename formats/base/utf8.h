// UTF-8 (RFC 3629): paths need not be it, JSON has to.
#pragma once

#include <string_view>

namespace base {

/// Neither overlong forms, nor surrogates, nor what is cut off.
[[nodiscard]] bool is_utf8(std::string_view text);

}  // namespace base
