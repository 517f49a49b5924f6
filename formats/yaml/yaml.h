// YAML as this project uses it: small files that people write, as the values of JSON.
#pragma once

#include <string_view>

#include "formats/json/json.h"

namespace formats {

inline constexpr std::size_t kMaxYaml = std::size_t{64} << 10;  ///< bytes of a file

/// Parses one document. A plain scalar is a number, true, false or null if it is written as one in JSON, else
/// text. Throws usage (with the line) for bad syntax, duplicate keys, keys that are not text, nesting deeper
/// than 16, anchors, aliases and tags, and more than kMaxYaml bytes.
[[nodiscard]] json::Value parse_yaml(std::string_view text);

}  // namespace formats
