// Checking a vat, and making good what can be made good.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/object_id.h"
#include "vat/vat.h"

namespace vat {

struct VerifyOptions {
  unsigned threads = 0;
  bool quick = false;     ///< sizes and trailers only
  unsigned sample = 100;  ///< percent of the groups that are decoded and hashed
  bool repair = false;
  BlobSource* from =
      nullptr;  ///< repair: what is damaged or missing here and there is good there is stored again
  std::function<void(std::uint64_t)> progress;  ///< bytes read so far, on the calling thread
};

/// One thing that is wrong.
struct Damage {
  std::string file;                  ///< below the vat; empty for content that lacks a part
  std::optional<base::ObjectId> id;  ///< the object; nullopt if the file as a whole is meant
  std::string what;
  bool repaired = false;  ///< every id of the file can be read again and the file is in local/quarantine
};

struct VerifySummary {
  std::uint64_t packs = 0, loose_files = 0, groups = 0, blobs = 0;
  std::uint64_t read_size = 0;
  std::uint64_t damaged = 0;   ///< how often on_damage was called
  std::uint64_t repaired = 0;  ///< … for something that is good now
};

/// Checks every file in primary/ against its name, every blob against its id, and that recipes, manifests and
/// layouts find all they name. Reports exactly what is bad.
///
/// With options.repair, a damaged file whose ids can all be read from elsewhere, or from its own sound parts,
/// is replaced: what is only in it is stored again, and only then it moves to local/quarantine. With
/// options.from what cannot be read here is taken from there first. Nothing else is changed.
VerifySummary verify(Vat& vat, const VerifyOptions& options,
                     const std::function<void(const Damage&)>& on_damage);

/// Reads the content of one id and proves it. Throws as stream_content() does.
void verify_content(Vat& vat, const base::ObjectId& id);

}  // namespace vat
