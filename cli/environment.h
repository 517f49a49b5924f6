// What the environment says; read here and nowhere else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace cli {

/// The value of a variable; nullopt if unset or empty.
[[nodiscard]] std::optional<std::string> find_variable(const char* name);

/// $VAT_CACHE_DIR, $XDG_CACHE_HOME/vat or ~/.cache/vat; empty if neither can be named. Relative paths do not
/// count.
[[nodiscard]] std::string cache_directory();
/// $XDG_CONFIG_HOME/vat or ~/.config/vat; likewise.
[[nodiscard]] std::string config_directory();

/// Seconds since the epoch: SOURCE_DATE_EPOCH if set (usage if it is no number), else now.
[[nodiscard]] std::int64_t current_time();

/// `seconds` as RFC 3339 in UTC: 2026-11-21T10:00:00Z.
[[nodiscard]] std::string format_time(std::int64_t seconds);
/// The reverse; nullopt if the text is not of that form.
[[nodiscard]] std::optional<std::int64_t> parse_time(const std::string& text);

}  // namespace cli
