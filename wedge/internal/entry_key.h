// What a record says an entry holds, in one line: its root, and what of it was kept.
#pragma once

#include <optional>
#include <string>

#include "formats/base/object_id.h"
#include "vat/blob_source.h"
#include "wedge/wedge.h"

namespace wedge::internal {

[[nodiscard]] std::string key_of(const EntryRoot& root, const Fidelity& fidelity);

/// The ids that key_of() was told, whatever form the content has.
/// Whether it was a file that may be run.
[[nodiscard]] bool is_executable(const std::string& key);
[[nodiscard]] vat::Root content_of(const std::string& key, base::ObjectFormat format);

/// What an overlay stands on: the record of that entry, and which image it was, in which form.
struct Stand {
  std::string record;
  base::ObjectId recipe;
  bool is_qcow2 = false;
};
[[nodiscard]] std::optional<Stand> stand_of(const std::string& key, base::ObjectFormat format);

/// What key_of() was told; nullopt if it is no key, or what lies there holds the content in another form.
[[nodiscard]] std::optional<vat::Root> root_of(const std::string& key, base::ObjectFormat format);

/// The recipe of a file or image, as key_of() wrote it.
[[nodiscard]] std::optional<base::ObjectId> recipe_of(const std::string& key, base::ObjectFormat format);

[[nodiscard]] Fidelity fidelity_of(const std::string& key);

}  // namespace wedge::internal
