#include "formats/json/json.h"

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "formats/base/error.h"
#include "formats/base/utf8.h"

namespace formats::json {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kMaxNesting = 64;

/// Builds Values from nlohmann's events.
class Builder final : public nlohmann::json::json_sax_t {
 public:
  Value result;
  std::string failure;

  bool null() override { return put(Value()); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(Value(std::int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    return value <= INT64_MAX ? put(Value(static_cast<std::int64_t>(value)))
                              : put(Value(std::uint64_t{value}));
  }
  bool number_float(number_float_t value, const string_t&) override { return put(Value(value)); }
  bool string(string_t& value) override { return put(Value(std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Value(Object{})); }
  bool start_array(std::size_t) override { return open(Value(Array{})); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!stack_.back().keys.insert(name).second) return fail("key '" + name + "' is there twice");
    stack_.back().key = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    std::string reason = error.what();
    if (const auto at = reason.find("syntax error"); at != std::string::npos) reason = reason.substr(at);
    return fail("byte " + std::to_string(position) + ": " + reason);
  }

 private:
  struct Open {
    Value value;
    std::string key;                       ///< of the member being read, when value is an object
    std::unordered_set<std::string> keys;  ///< read so far: a scan for each key would be quadratic
  };
  bool fail(std::string why) {
    if (failure.empty()) failure = std::move(why);
    return false;
  }
  bool open(Value value) {
    if (stack_.size() == kMaxNesting) return fail("nested too deeply");
    stack_.push_back({std::move(value), {}, {}});
    return true;
  }
  bool close() {
    Value done = std::move(stack_.back().value);
    stack_.pop_back();
    return put(std::move(done));
  }
  bool put(Value value) {
    if (stack_.empty()) {
      result = std::move(value);
    } else if (Object* object = stack_.back().value.find_object()) {
      object->emplace_back(std::move(stack_.back().key), std::move(value));
    } else {
      stack_.back().value.find_array()->push_back(std::move(value));
    }
    return true;
  }
  std::vector<Open> stack_;
};

void write_string(std::string& to, std::string_view text) {
  // parse() refuses such a text, and nobody writes what cannot be read.
  if (!base::is_utf8(text)) throw Error(Category::refused, "a text that is not UTF-8 cannot stand in JSON");
  to += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      to += '\\';
      to += c;
    } else if (c == '\n') {
      to += "\\n";
    } else if (c == '\t') {
      to += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      (void)std::snprintf(escaped, sizeof escaped, "\\u%04x", byte);
      to += escaped;
    } else {
      to += c;
    }
  }
  to += '"';
}

struct Style {
  std::string_view open_gap, comma, colon;
};
constexpr Style kTight{"", ",", ":"};
constexpr Style kAiry{" ", ", ", ": "};

void write(std::string& to, const Value& value, const Style& style);

struct Writer {
  std::string& to;
  const Style& style;
  void operator()(std::nullptr_t) const { to += "null"; }
  void operator()(bool value) const { to += value ? "true" : "false"; }
  void operator()(std::int64_t value) const { to += std::to_string(value); }
  void operator()(std::uint64_t value) const { to += std::to_string(value); }
  void operator()(double value) const {
    char text[40];
    const auto* end =
        std::to_chars(text, text + sizeof text, value).ptr;  // the shortest that reads back the same
    const std::string_view digits(text, static_cast<std::size_t>(end - text));
    to += digits;
    if (digits.find_first_not_of("-0123456789") == std::string_view::npos) to += ".0";  // else an integer
  }
  void operator()(const std::string& value) const { write_string(to, value); }
  void operator()(const Array& array) const {
    to += '[';
    for (std::size_t i = 0; i < array.size(); ++i) {
      to += i == 0 ? std::string_view() : style.comma;
      write(to, array[i], style);
    }
    to += ']';
  }
  void operator()(const Object& object) const {
    to += '{';
    if (!object.empty()) to += style.open_gap;
    for (std::size_t i = 0; i < object.size(); ++i) {
      to += i == 0 ? std::string_view() : style.comma;
      write_string(to, object[i].first);
      to += style.colon;
      write(to, object[i].second, style);
    }
    if (!object.empty()) to += style.open_gap;
    to += '}';
  }
};

void write(std::string& to, const Value& value, const Style& style) {
  std::visit(Writer{to, style}, value.data());
}

}  // namespace

bool Value::find_unsigned(std::uint64_t& to) const noexcept {
  if (const auto* value = std::get_if<std::int64_t>(&data_); value != nullptr && *value >= 0) {
    to = static_cast<std::uint64_t>(*value);
    return true;
  }
  if (const auto* value = std::get_if<std::uint64_t>(&data_)) {
    to = *value;
    return true;
  }
  return false;
}

const Value* find(const Object& object, std::string_view key) noexcept {
  for (const auto& [name, value] : object)
    if (name == key) return &value;
  return nullptr;
}

void set(Object& object, std::string_view key, Value value) {
  for (auto& [name, old] : object)
    if (name == key) {
      old = std::move(value);
      return;
    }
  object.emplace_back(std::string(key), std::move(value));
}

Value parse(std::string_view text) {
  // The library takes a NUL for the end of the text.
  if (text.find('\0') != std::string_view::npos) throw Error(Category::refused, "json: a NUL byte");
  Builder builder;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder))
    throw Error(Category::refused, "json: " + (builder.failure.empty() ? "bad syntax" : builder.failure));
  return std::move(builder.result);
}

std::string to_line(const Value& value) {
  std::string text;
  write(text, value, kTight);
  return text;
}

std::string to_document(const Object& object) {
  std::string text = "{\n";
  for (std::size_t i = 0; i < object.size(); ++i) {
    text += "  ";
    write_string(text, object[i].first);
    text += ": ";
    const Array* array = object[i].second.find_array();
    if (array != nullptr && !array->empty()) {
      text += "[\n";
      for (std::size_t j = 0; j < array->size(); ++j) {
        text += "    ";
        write(text, (*array)[j], kAiry);
        text += j + 1 < array->size() ? ",\n" : "\n";
      }
      text += "  ]";
    } else {
      write(text, object[i].second, kAiry);
    }
    text += i + 1 < object.size() ? ",\n" : "\n";
  }
  return text + "}\n";
}

}  // namespace formats::json
