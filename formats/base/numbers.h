// Numbers in text formats: one spelling each, so that equal objects are equal bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace base {

/// Unsigned decimal without sign, blanks or leading zeros; nullopt for anything else or above 2^64-1.
[[nodiscard]] std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept;

/// Unsigned octal under the same rules, at most 32 bits.
[[nodiscard]] std::optional<std::uint32_t> parse_octal(std::string_view text) noexcept;

/// Signed decimal: as parse_decimal with an optional `-` (`-0` is refused).
[[nodiscard]] std::optional<std::int64_t> parse_signed(std::string_view text) noexcept;

/// Takes the part of `text` before the first `separator` (all of it if there is none) off its front.
[[nodiscard]] std::string_view take_field(std::string_view& text, char separator) noexcept;

}  // namespace base
