// vat.json: what a vat is. docs/formats/vat-json.md
#pragma once

#include <string>
#include <string_view>

#include "formats/base/object_id.h"

namespace formats {

/// Fixed when a vat is made.
struct VatSettings {
  base::ObjectFormat object_format = base::ObjectFormat::sha256;
  std::string chunker;  ///< profile id for blobs whose profile nothing else decides
  std::string uuid;
  bool is_shared = false;  ///< by the group of its directory, which may add to it and change it
};

[[nodiscard]] std::string to_text(const VatSettings& settings);
/// Refused if malformed; no_store if of a version this program does not know. Unknown keys are ignored.
[[nodiscard]] VatSettings parse_vat_settings(std::string_view text);

}  // namespace formats
