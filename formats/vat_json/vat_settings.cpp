#include "formats/vat_json/vat_settings.h"

#include "formats/base/error.h"
#include "formats/json/json.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr const char* kGroup = "group";

const std::string& string_member(const json::Object& object, std::string_view key) {
  const auto* value = json::find(object, key);
  const auto* text = value != nullptr ? value->find_string() : nullptr;
  if (text == nullptr) throw Error(Category::refused, "no \"" + std::string(key) + "\" text");
  return *text;
}

}  // namespace

std::string to_text(const VatSettings& settings) {
  json::Object object{{"vat", 1},
                      {"object-format", base::to_string(settings.object_format)},
                      {"chunker", settings.chunker},
                      {"uuid", settings.uuid}};
  if (settings.is_shared) object.emplace_back("shared", kGroup);
  return json::to_document(object);
}

VatSettings parse_vat_settings(std::string_view text) {
  const auto document = json::parse(text);
  const auto* object = document.find_object();
  std::uint64_t version = 0;
  const auto* number = object != nullptr ? json::find(*object, "vat") : nullptr;
  if (number == nullptr || !number->find_unsigned(version))
    throw Error(Category::refused, "no \"vat\" version");
  if (version != 1)
    throw Error(Category::no_store, "a vat of version " + std::to_string(version) + ", this program knows 1");
  const auto& format_name = string_member(*object, "object-format");
  const auto format = base::find_object_format(format_name);
  if (!format) throw Error(Category::refused, "unknown object format '" + format_name + "'");
  VatSettings settings{*format, string_member(*object, "chunker"), string_member(*object, "uuid")};
  if (json::find(*object, "shared") != nullptr) {
    if (string_member(*object, "shared") != kGroup)
      throw Error(Category::refused, "\"shared\" is not \"" + std::string(kGroup) + "\"");
    settings.is_shared = true;
  }
  return settings;
}

}  // namespace formats
