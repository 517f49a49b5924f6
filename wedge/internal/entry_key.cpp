#include "wedge/internal/entry_key.h"

#include <string_view>

#include "formats/base/numbers.h"

namespace wedge::internal {
namespace {

using base::ObjectId;

constexpr const char* kQcow2 = " qcow2";

}  // namespace

std::string key_of(const EntryRoot& root, const Fidelity& fidelity) {
  static constexpr const char* kNames[] = {"tree", "file", "image"};
  std::string key = kNames[static_cast<std::size_t>(root.type)];
  for (const auto* id : {&root.manifest, &root.layout, &root.blob, &root.recipe})
    key += " " + (*id ? (*id)->hex() : "-");
  return key + " " + (root.unpack.empty() ? "-" : root.unpack) + (fidelity.owners ? " owners" : "") +
         (fidelity.acls ? " acls" : "") + (fidelity.fifos ? " fifos" : "") +
         (fidelity.devices ? " devices" : "") + (root.as_qcow2 ? kQcow2 : "");
}

std::optional<vat::Root> root_of(const std::string& key, base::ObjectFormat format) {
  if (key.ends_with(kQcow2)) return std::nullopt;
  std::string_view rest = key;
  (void)base::take_field(rest, ' ');
  vat::Root root;
  for (auto* id : {&root.manifest, &root.layout, &root.blob, &root.recipe})
    *id = ObjectId::parse(format, std::string(base::take_field(rest, ' ')));
  return root.manifest || root.blob || root.recipe ? std::optional(root) : std::nullopt;
}

std::optional<ObjectId> recipe_of(const std::string& key, base::ObjectFormat format) {
  const auto root = root_of(key, format);
  return root ? root->recipe : std::nullopt;
}

Fidelity fidelity_of(const std::string& key) {
  const auto has = [&](const char* flag) { return key.find(flag) != std::string::npos; };
  return {has(" owners"), has(" acls"), has(" fifos"), has(" devices")};
}

}  // namespace wedge::internal
