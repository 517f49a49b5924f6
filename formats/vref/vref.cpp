#include "formats/vref/vref.h"

#include <algorithm>
#include <array>
#include <functional>

#include "formats/base/error.h"
#include "formats/base/url.h"

namespace formats {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;

constexpr std::array<std::string_view, 3> kTypes = {"tree", "file", "image"};
constexpr std::array<std::string_view, 5> kUnpack = {"tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"};
constexpr std::array<std::string_view, 3> kMaterialize = {"qcow2", "qcow2-zstd", "qcow2-overlay"};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, "vref: " + what);
}

/// Takes members off a document, so that what is left is unknown.
class Members {
 public:
  explicit Members(json::Object object) : object_(std::move(object)) {}

  std::optional<json::Value> take(std::string_view key) {
    const auto found =
        std::find_if(object_.begin(), object_.end(), [&](const auto& member) { return member.first == key; });
    if (found == object_.end()) return std::nullopt;
    auto value = std::move(found->second);
    object_.erase(found);
    return value;
  }
  std::optional<std::string> take_string(std::string_view key) {
    const auto value = take(key);
    if (!value) return std::nullopt;
    if (value->find_string() == nullptr) refuse("\"" + std::string(key) + "\" is not a text");
    return *value->find_string();
  }
  std::optional<std::uint64_t> take_unsigned(std::string_view key) {
    const auto value = take(key);
    if (!value) return std::nullopt;
    std::uint64_t number = 0;
    if (!value->find_unsigned(number)) refuse("\"" + std::string(key) + "\" is not a whole number");
    return number;
  }
  bool take_bool(std::string_view key) {
    const auto value = take(key);
    if (value && value->find_bool() == nullptr)
      refuse("\"" + std::string(key) + "\" is neither true nor false");
    return value && *value->find_bool();
  }
  std::optional<ObjectId> take_id(std::string_view key, base::ObjectFormat format) {
    const auto text = take_string(key);
    if (!text) return std::nullopt;
    return base::named("vref: \"" + std::string(key) + "\"",
                       [&] { return ObjectId::require(format, *text); });
  }
  json::Object rest() { return std::move(object_); }

 private:
  json::Object object_;
};

template <typename T>
T required(std::optional<T> value, const char* key) {
  if (!value) refuse("no \"" + std::string(key) + "\"");
  return *std::move(value);
}

void check_ids(const Vref& vref) {
  const bool tree = vref.type == Vref::Type::tree, file = vref.type == Vref::Type::file;
  if (tree && (!vref.manifest || !vref.layout)) refuse("a tree needs \"manifest\" and \"layout\"");
  if (file && !vref.blob) refuse("a file needs \"blob\"");
  if (vref.type == Vref::Type::image && !vref.recipe) refuse("an image needs \"recipe\"");
  if (!tree && (vref.manifest || vref.layout || vref.tree || vref.entries))
    refuse("keys of a tree in what is none");
  if (tree && (vref.blob || vref.recipe)) refuse("keys of a file in a tree");
  if (!vref.unpack.empty() &&
      (!file || std::find(kUnpack.begin(), kUnpack.end(), vref.unpack) == kUnpack.end()))
    refuse("bad \"unpack\"");
  if (vref.executable && (!file || !vref.unpack.empty())) refuse("\"executable\" in what is no single file");
  const bool image = vref.type == Vref::Type::image;
  if (vref.parent && !image) refuse("\"parent\" in what is no image");
  if (!vref.materialize.empty() &&
      (!image || std::find(kMaterialize.begin(), kMaterialize.end(), vref.materialize) == kMaterialize.end()))
    refuse("bad \"materialize\"");
}

}  // namespace

std::string_view to_string(Vref::Type type) noexcept {
  return kTypes[static_cast<std::size_t>(type)];
}

std::string to_text(const Vref& vref) {
  json::Object object{
      {"vref", 1}, {"type", to_string(vref.type)}, {"object-format", base::to_string(vref.object_format)}};
  const auto add_id = [&](const char* key, const std::optional<ObjectId>& id) {
    if (id) object.emplace_back(key, id->hex());
  };
  add_id("manifest", vref.manifest);
  add_id("layout", vref.layout);
  add_id("tree", vref.tree);
  add_id("blob", vref.blob);
  add_id("recipe", vref.recipe);
  add_id("parent", vref.parent);
  add_id("trace", vref.trace);
  object.emplace_back("size", vref.size);
  if (vref.entries) object.emplace_back("entries", *vref.entries);
  if (vref.executable) object.emplace_back("executable", true);
  if (!vref.unpack.empty()) object.emplace_back("unpack", vref.unpack);
  if (!vref.materialize.empty()) object.emplace_back("materialize", vref.materialize);
  if (!vref.provenance.empty()) object.emplace_back("provenance", vref.provenance);
  for (const auto& member : vref.unknown) object.push_back(member);
  return json::to_document(object);
}

Vref parse_vref(std::string_view text) {
  if (text.size() > kMaxVref) refuse("larger than 1 MiB");
  const auto document = base::named("vref", [&] { return json::parse(text); });
  if (document.find_object() == nullptr) refuse("not a JSON object");
  Members members(*document.find_object());
  const auto version = members.take_unsigned("vref");
  if (!version) refuse("no \"vref\" version");
  if (*version != 1)
    throw Error(Category::no_store, "vref: version " + std::to_string(*version) + ", this program knows 1");

  Vref vref;
  const auto type = required(members.take_string("type"), "type");
  const auto known = std::find(kTypes.begin(), kTypes.end(), type);
  if (known == kTypes.end()) refuse("unknown type '" + type + "'");
  vref.type = static_cast<Vref::Type>(known - kTypes.begin());
  const auto format = required(members.take_string("object-format"), "object-format");
  vref.object_format = required(base::find_object_format(format), "object-format of a known name");
  vref.manifest = members.take_id("manifest", vref.object_format);
  vref.layout = members.take_id("layout", vref.object_format);
  vref.tree = members.take_id("tree", vref.object_format);
  vref.blob = members.take_id("blob", vref.object_format);
  vref.recipe = members.take_id("recipe", vref.object_format);
  vref.parent = members.take_id("parent", vref.object_format);
  vref.trace = members.take_id("trace", vref.object_format);
  vref.size = required(members.take_unsigned("size"), "size");
  vref.entries = members.take_unsigned("entries");
  vref.executable = members.take_bool("executable");
  vref.unpack = members.take_string("unpack").value_or("");
  vref.materialize = members.take_string("materialize").value_or("");
  if (const auto provenance = members.take("provenance")) {
    if (provenance->find_object() == nullptr) refuse("\"provenance\" is not an object");
    vref.provenance = *provenance->find_object();
  }
  vref.unknown = members.rest();
  check_ids(vref);
  return vref;
}

bool same_but_for_fetch(const Vref& a, const Vref& b) {
  const auto lasting = [](Vref vref) {
    std::erase_if(vref.provenance, [](const auto& member) {
      return (member.first == "added" || member.first == "place" || member.first == "etag") &&
             !(member.second.find_string() != nullptr && base::holds_secret(*member.second.find_string()));
    });
    return vref;
  };
  return lasting(a) == lasting(b);
}

namespace {

/// Calls `visit` with each text in a value, however deep.
void for_each_text(json::Value& value, const std::function<void(std::string&)>& visit) {
  if (auto* text = value.find_string()) return visit(*text);
  if (auto* array = value.find_array())
    for (auto& one : *array) for_each_text(one, visit);
  if (auto* object = value.find_object())
    for (auto& [name, one] : *object) for_each_text(one, visit);
}

/// … of what a vref says about where its content came from, and of what this program does not know.
void for_each_member(Vref& vref, const std::function<void(const std::string&, std::string&)>& visit) {
  for (auto* members : {&vref.provenance, &vref.unknown})
    for (auto& [name, value] : *members)
      for_each_text(value, [&, &of = name](std::string& text) { visit(of, text); });
}

}  // namespace

std::vector<std::string> secrets_of(const Vref& vref) {
  std::vector<std::string> names;
  auto copy = vref;
  for_each_member(copy, [&](const std::string& name, const std::string& text) {
    if (base::holds_secret(text) && (names.empty() || names.back() != name)) names.push_back(name);
  });
  return names;
}

void remove_secrets(Vref& vref) {
  for_each_member(vref, [](const std::string&, std::string& text) {
    if (base::holds_secret(text)) text = base::without_secrets(text);
  });
}

}  // namespace formats
