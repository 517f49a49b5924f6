// JSON as this project uses it: small documents, keys in order, unknown keys kept, duplicates refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace formats::json {

class Value;
using Array = std::vector<Value>;
/// Members in the order they were read or added.
using Object = std::vector<std::pair<std::string, Value>>;

/// One JSON value. Numbers are 64-bit integers when written as such.
class Value {
 public:
  using Data =
      std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object>;

  Value() = default;
  Value(bool value) : data_(value) {}
  Value(std::int64_t value) : data_(value) {}
  Value(std::uint64_t value) : data_(value) {}
  Value(int value) : data_(std::int64_t{value}) {}
  Value(double value) : data_(value) {}
  Value(std::string value) : data_(std::move(value)) {}
  Value(std::string_view value) : data_(std::string(value)) {}
  Value(const char* value) : data_(std::string(value)) {}
  Value(Array value) : data_(std::move(value)) {}
  Value(Object value) : data_(std::move(value)) {}

  [[nodiscard]] const Data& data() const noexcept { return data_; }
  /// nullptr unless the value is of that type.
  [[nodiscard]] const std::string* find_string() const noexcept { return std::get_if<std::string>(&data_); }
  [[nodiscard]] std::string* find_string() noexcept { return std::get_if<std::string>(&data_); }
  [[nodiscard]] const bool* find_bool() const noexcept { return std::get_if<bool>(&data_); }
  [[nodiscard]] const Array* find_array() const noexcept { return std::get_if<Array>(&data_); }
  [[nodiscard]] const Object* find_object() const noexcept { return std::get_if<Object>(&data_); }
  [[nodiscard]] Object* find_object() noexcept { return std::get_if<Object>(&data_); }
  [[nodiscard]] Array* find_array() noexcept { return std::get_if<Array>(&data_); }
  /// The non-negative integer this is, or nullptr's equivalent: false.
  [[nodiscard]] bool find_unsigned(std::uint64_t& to) const noexcept;

  friend bool operator==(const Value&, const Value&) = default;

 private:
  Data data_;
};

/// The member of that name; nullptr if absent.
[[nodiscard]] const Value* find(const Object& object, std::string_view key) noexcept;
/// Replaces the member of that name in place, or appends it.
void set(Object& object, std::string_view key, Value value);

/// Parses one document. Refused (with place and reason): bad syntax, duplicate keys, nesting deeper than 64,
/// bytes that are not UTF-8, anything after the document.
[[nodiscard]] Value parse(std::string_view text);

/// One line, no blanks. Refused: a text that is not UTF-8.
[[nodiscard]] std::string to_line(const Value& value);
/// The form of files kept in git: one member of the document a line, nested values inline, arrays of the
/// document one element a line; LF at the end. Refused: a text that is not UTF-8.
[[nodiscard]] std::string to_document(const Object& object);

}  // namespace formats::json
