// VAT.json: which vats hold the bytes of a shrub. docs/formats/vat-json.md
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/json/json.h"

namespace formats {

struct VatEntry {
  std::string url;
  bool write = false;            ///< adds go here
  std::string endpoint, region;  ///< of an s3 vat; may be empty
  json::Object unknown;          ///< other keys, kept as they are
};

struct VatList {
  base::ObjectFormat object_format = base::ObjectFormat::sha256;
  std::vector<VatEntry> vats;
  json::Object unknown;
};

[[nodiscard]] std::string to_text(const VatList& list);
/// usage if malformed; no_store if of a version this program does not know.
[[nodiscard]] VatList parse_vat_list(std::string_view text);

}  // namespace formats
