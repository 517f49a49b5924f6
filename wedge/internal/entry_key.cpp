#include "wedge/internal/entry_key.h"

#include <array>
#include <string_view>

#include "formats/base/numbers.h"
#include "wedge/internal/record.h"

namespace wedge::internal {
namespace {

using base::ObjectId;

constexpr std::array<const char*, 4> kForms{"", " qcow2", " qcow2-zstd", " qcow2-overlay "};

constexpr const char* kExecutable = " executable";

}  // namespace

std::string key_of(const EntryRoot& root, const Fidelity& fidelity) {
  static constexpr const char* kNames[] = {"tree", "file", "image"};
  std::string key = kNames[static_cast<std::size_t>(root.type)];
  for (const auto* id : {&root.manifest, &root.layout, &root.blob, &root.recipe})
    key += " " + (*id ? (*id)->hex() : "-");
  key += " " + (root.unpack.empty() ? "-" : root.unpack) + (root.executable ? kExecutable : "") +
         (fidelity.owners ? " owners" : "") + (fidelity.acls ? " acls" : "") +
         (fidelity.fifos ? " fifos" : "") + (fidelity.devices ? " devices" : "") +
         (fidelity.shared ? " shared" : "") + kForms[static_cast<std::size_t>(root.form)];
  return root.below ? key + record_name(root.below->entry) + " " + root.below->recipe.hex() +
                          (root.below->is_qcow2 ? " qcow2" : " raw")
                    : key;
}

bool is_executable(const std::string& key) {
  return key.find(kExecutable) != std::string::npos;
}

vat::Root content_of(const std::string& key, base::ObjectFormat format) {
  std::string_view rest = key;
  (void)base::take_field(rest, ' ');
  vat::Root root;
  for (auto* id : {&root.manifest, &root.layout, &root.blob, &root.recipe})
    *id = ObjectId::parse(format, std::string(base::take_field(rest, ' ')));
  return root;
}

std::optional<vat::Root> root_of(const std::string& key, base::ObjectFormat format) {
  if (key.find(kForms[1]) != std::string::npos) return std::nullopt;
  const auto root = content_of(key, format);
  return root.manifest || root.blob || root.recipe ? std::optional(root) : std::nullopt;
}

std::optional<ObjectId> recipe_of(const std::string& key, base::ObjectFormat format) {
  const auto root = root_of(key, format);
  return root ? root->recipe : std::nullopt;
}

std::optional<Stand> stand_of(const std::string& key, base::ObjectFormat format) {
  const std::string_view form = kForms[3];
  const auto at = key.find(form);
  if (at == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(key).substr(at + form.size());
  const std::string record(base::take_field(rest, ' '));
  const auto recipe = ObjectId::parse(format, std::string(base::take_field(rest, ' ')));
  return recipe ? std::optional(Stand{record, *recipe, rest == "qcow2"}) : std::nullopt;
}

Fidelity fidelity_of(const std::string& key) {
  const auto has = [&](const char* flag) { return key.find(flag) != std::string::npos; };
  return {has(" owners"), has(" acls"), has(" fifos"), has(" devices"), has(" shared")};
}

}  // namespace wedge::internal
