#include "formats/base/numbers.h"

#include <charconv>

namespace base {
namespace {

template <typename T>
std::optional<T> parse(std::string_view text, int radix) noexcept {
  if (text.empty() || (text[0] == '0' && text.size() > 1)) return std::nullopt;
  T value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value, radix);
  if (status != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept {
  return parse<std::uint64_t>(text, 10);
}

std::optional<std::uint32_t> parse_octal(std::string_view text) noexcept {
  return parse<std::uint32_t>(text, 8);
}

std::optional<std::int64_t> parse_signed(std::string_view text) noexcept {
  const bool negative = !text.empty() && text[0] == '-';
  const auto digits = text.substr(negative ? 1 : 0);
  if (digits.empty() || digits[0] == '-' || (digits[0] == '0' && (digits.size() > 1 || negative)))
    return std::nullopt;
  std::int64_t value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value, 10);
  if (status != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string_view take_field(std::string_view& text, char separator) noexcept {
  const auto at = text.find(separator);
  const auto field = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
  return field;
}

}  // namespace base
