#include "formats/yaml/yaml.h"

#include <yaml.h>

#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace formats {
namespace {

using base::Category;
using base::Error;
using json::Value;

constexpr int kMaxDepth = 16;

class Reader {
 public:
  explicit Reader(std::string_view text) {
    if (yaml_parser_initialize(&parser_) == 0) throw Error(Category::local, "yaml: out of memory");
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  }
  ~Reader() {
    yaml_event_delete(&event_);
    yaml_parser_delete(&parser_);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  Value read_document() {
    next();  // the begin of the stream
    next();
    if (event_.type == YAML_STREAM_END_EVENT) return {};
    next();
    auto value = read_value(0);
    next();  // the end of the document
    next();
    if (event_.type != YAML_STREAM_END_EVENT) refuse("more than one document");
    return value;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    const auto line = event_.type == YAML_NO_EVENT ? parser_.problem_mark.line : event_.start_mark.line;
    throw Error(Category::usage, "line " + std::to_string(line + 1) + ": " + what);
  }

  void next() {
    yaml_event_delete(&event_);
    if (yaml_parser_parse(&parser_, &event_) == 0)
      refuse(parser_.problem != nullptr ? parser_.problem : "not YAML");
  }

  /// The value that the present event begins.
  Value read_value(int depth) {
    if (depth > kMaxDepth) refuse("nested too deep");
    switch (event_.type) {
      case YAML_SCALAR_EVENT:
        return read_scalar();
      case YAML_SEQUENCE_START_EVENT: {
        refuse_names(event_.data.sequence_start.anchor, event_.data.sequence_start.tag);
        json::Array array;
        for (next(); event_.type != YAML_SEQUENCE_END_EVENT; next()) array.push_back(read_value(depth + 1));
        return array;
      }
      case YAML_MAPPING_START_EVENT: {
        refuse_names(event_.data.mapping_start.anchor, event_.data.mapping_start.tag);
        json::Object object;
        for (next(); event_.type != YAML_MAPPING_END_EVENT; next()) read_member(object, depth);
        return object;
      }
      default:
        refuse("aliases are not known here");
    }
  }

  void read_member(json::Object& object, int depth) {
    if (event_.type != YAML_SCALAR_EVENT) refuse("a key that is not text");
    const std::string key(text());
    if (json::find(object, key) != nullptr) refuse("'" + key + "' twice");
    next();
    object.emplace_back(key, read_value(depth + 1));
  }

  [[nodiscard]] std::string_view text() const {
    const auto& scalar = event_.data.scalar;
    return {reinterpret_cast<const char*>(scalar.value), scalar.length};
  }

  Value read_scalar() {
    refuse_names(event_.data.scalar.anchor, event_.data.scalar.tag);
    const auto value = text();
    if (event_.data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return value;
    if (value == "true" || value == "false") return value == "true";
    if (value.empty() || value == "null" || value == "~") return {};
    if (const auto number = base::parse_decimal(value)) return *number;
    return value;
  }

  void refuse_names(const unsigned char* anchor, const unsigned char* tag) const {
    if (anchor != nullptr || tag != nullptr) refuse("anchors and tags are not known here");
  }

  yaml_parser_t parser_{};
  yaml_event_t event_{};
};

}  // namespace

Value parse_yaml(std::string_view text) {
  if (text.size() > kMaxYaml) throw Error(Category::usage, "larger than 64 KiB");
  return Reader(text).read_document();
}

}  // namespace formats
