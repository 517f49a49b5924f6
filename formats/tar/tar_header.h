// What stands in the headers of a tar (POSIX.1-2001, "pax Interchange Format" and "ustar"; GNU tar's numbers
// of base 256).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "formats/base/bytes.h"

namespace formats {

inline constexpr std::size_t kTarBlock = 512;  ///< bytes; content is filled up to a multiple of them
using TarHeader = std::array<std::byte, kTarBlock>;

[[nodiscard]] std::string_view tar_field(const TarHeader& header, std::size_t at, std::size_t size);
/// Octal digits, among blanks and zeros; or, with the high bit set, a number of base 256.
[[nodiscard]] std::optional<std::uint64_t> parse_tar_number(std::string_view text);
[[nodiscard]] std::optional<std::uint64_t> tar_size(
    const TarHeader& header);  ///< of what follows, not filled up
[[nodiscard]] inline char tar_type(const TarHeader& header) {
  return static_cast<char>(header[156]);
}
/// The sum of all bytes, those of itself as blanks. Some old programs took bytes to be signed.
[[nodiscard]] bool has_right_sum(const TarHeader& header);
[[nodiscard]] bool is_zero_block(const TarHeader& header);
/// Calls `visit` for each pax record. False if they are malformed.
bool read_pax_records(std::string_view records,
                      const std::function<void(std::string_view key, std::string_view value)>& visit);

}  // namespace formats
