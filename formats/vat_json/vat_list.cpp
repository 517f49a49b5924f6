#include "formats/vat_json/vat_list.h"

#include "formats/base/error.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::usage, what);
}

/// Whether a program given `url`, or the user or host in it, could take that for an option.
bool begins_like_option(std::string_view url) {
  const auto scheme = url.find("://");
  auto authority = url.substr(scheme == std::string_view::npos ? 0 : scheme + 3);
  authority = authority.substr(0, authority.find('/'));
  return url.starts_with('-') || authority.starts_with('-') || authority.find("@-") != std::string_view::npos;
}

VatEntry parse_entry(const json::Value& value) {
  const auto* object = value.find_object();
  if (object == nullptr) refuse("an element of \"vats\" is not an object");
  VatEntry entry;
  for (const auto& [key, member] : *object) {
    if (key == "url") {
      if (member.find_string() == nullptr || member.find_string()->empty()) refuse("\"url\" is not a text");
      entry.url = *member.find_string();
      if (begins_like_option(entry.url))
        throw Error(Category::refused, "url '" + entry.url + "' begins like an option");
    } else if (key == "write") {
      if (member.find_bool() == nullptr) refuse("\"write\" is not true or false");
      entry.write = *member.find_bool();
    } else if (key == "endpoint" || key == "region") {
      if (member.find_string() == nullptr || member.find_string()->empty())
        refuse("\"" + key + "\" is not a text");
      (key == "region" ? entry.region : entry.endpoint) = *member.find_string();
      if (begins_like_option(*member.find_string()))
        throw Error(Category::refused, key + " '" + *member.find_string() + "' begins like an option");
    } else {
      entry.unknown.emplace_back(key, member);
    }
  }
  if (entry.url.empty()) refuse("a vat without \"url\"");
  return entry;
}

}  // namespace

std::string to_text(const VatList& list) {
  json::Array vats;
  for (const auto& entry : list.vats) {
    json::Object object{{"url", entry.url}};
    if (entry.write) object.emplace_back("write", true);
    if (!entry.endpoint.empty()) object.emplace_back("endpoint", entry.endpoint);
    if (!entry.region.empty()) object.emplace_back("region", entry.region);
    for (const auto& member : entry.unknown) object.push_back(member);
    vats.emplace_back(std::move(object));
  }
  json::Object document{
      {"version", 1}, {"object-format", base::to_string(list.object_format)}, {"vats", std::move(vats)}};
  for (const auto& member : list.unknown) document.push_back(member);
  return json::to_document(document);
}

VatList parse_vat_list(std::string_view text) {
  json::Value document;
  try {
    document = json::parse(text);
  } catch (const Error& error) {
    refuse(error.what());
  }
  const auto* object = document.find_object();
  if (object == nullptr) refuse("not a JSON object");
  VatList list;
  bool version_seen = false;
  for (const auto& [key, value] : *object) {
    if (key == "version") {
      std::uint64_t version = 0;
      if (!value.find_unsigned(version)) refuse("\"version\" is not a number");
      if (version != 1)
        throw Error(Category::no_store, "version " + std::to_string(version) + ", this program knows 1");
      version_seen = true;
    } else if (key == "object-format") {
      const auto format =
          value.find_string() != nullptr ? base::find_object_format(*value.find_string()) : std::nullopt;
      if (!format) refuse("\"object-format\" is not sha256 or sha1");
      list.object_format = *format;
    } else if (key == "vats") {
      if (value.find_array() == nullptr) refuse("\"vats\" is not a list");
      for (const auto& element : *value.find_array()) list.vats.push_back(parse_entry(element));
    } else {
      list.unknown.emplace_back(key, value);
    }
  }
  if (!version_seen) refuse("no \"version\"");
  return list;
}

}  // namespace formats
