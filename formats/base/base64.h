// Base64 (RFC 4648, section 4) with padding and no line breaks.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "formats/base/bytes.h"

namespace base {

[[nodiscard]] std::string to_base64(Bytes bytes);
/// nullopt unless `text` is exactly what to_base64 prints.
[[nodiscard]] std::optional<std::string> from_base64(std::string_view text);

}  // namespace base
