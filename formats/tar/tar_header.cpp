#include "formats/tar/tar_header.h"

#include <algorithm>

#include "formats/base/numbers.h"

namespace formats {

std::string_view tar_field(const TarHeader& header, std::size_t at, std::size_t size) {
  return base::as_chars(header).substr(at, size);
}

std::optional<std::uint64_t> parse_tar_number(std::string_view text) {
  std::uint64_t value = 0;
  if (static_cast<unsigned char>(text.front()) == 0x80) {
    for (const char c : text.substr(1)) {
      if (value >> 56 != 0) return std::nullopt;
      value = value << 8 | static_cast<unsigned char>(c);
    }
    return value;
  }
  const auto begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) return 0;
  for (const char c : text.substr(begin)) {
    if (c == ' ' || c == '\0') break;
    if (c < '0' || c > '7' || value >> 60 != 0) return std::nullopt;
    value = value * 8 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

std::optional<std::uint64_t> tar_size(const TarHeader& header) {
  return parse_tar_number(tar_field(header, 124, 12));
}

bool has_right_sum(const TarHeader& header) {
  std::uint64_t sum = 0;
  std::int64_t signed_sum = 0;
  for (std::size_t i = 0; i < header.size(); ++i) {
    const auto byte = i >= 148 && i < 156 ? std::uint8_t{' '} : std::to_integer<std::uint8_t>(header[i]);
    sum += byte;
    signed_sum += static_cast<std::int8_t>(byte);
  }
  const auto said = parse_tar_number(tar_field(header, 148, 8));
  return said && (*said == sum || static_cast<std::int64_t>(*said) == signed_sum);
}

bool is_zero_block(const TarHeader& header) {
  return std::all_of(header.begin(), header.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

bool read_pax_records(std::string_view records,
                      const std::function<void(std::string_view key, std::string_view value)>& visit) {
  while (!records.empty() && records.front() != '\0') {
    const auto blank = records.find(' ');
    if (blank == std::string_view::npos) return false;
    const auto length = base::parse_decimal(records.substr(0, blank));
    if (!length || *length <= blank + 1 || *length > records.size()) return false;
    const auto record = records.substr(blank + 1, static_cast<std::size_t>(*length) - blank - 1);
    const auto equals = record.find('=');
    if (!record.ends_with('\n') || equals == std::string_view::npos) return false;
    visit(record.substr(0, equals), record.substr(equals + 1, record.size() - equals - 2));
    records.remove_prefix(static_cast<std::size_t>(*length));
  }
  return true;
}

}  // namespace formats
