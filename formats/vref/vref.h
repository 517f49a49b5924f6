// Vrefs: small JSON files in git that pin one root each. docs/formats/vref.md
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "formats/base/object_id.h"
#include "formats/json/json.h"

namespace formats {

inline constexpr std::size_t kMaxVref = std::size_t{1} << 20;  ///< bytes of a vref file

/// What a vref says. Which ids are set depends on the type.
struct Vref {
  enum class Type : std::uint8_t { tree, file, image };

  Type type = Type::tree;
  base::ObjectFormat object_format = base::ObjectFormat::sha256;
  std::optional<base::ObjectId> manifest;  ///< tree
  std::optional<base::ObjectId> layout;    ///< tree
  std::optional<base::ObjectId> tree;      ///< tree: id of git's tree object of the same content
  std::optional<base::ObjectId> blob;      ///< file: whole-content id
  std::optional<base::ObjectId> recipe;    ///< image; file when chunked
  std::optional<base::ObjectId> parent;    ///< image: recipe of the one it was made from
  std::optional<base::ObjectId> trace;  ///< blob that says what is read first of it (docs/formats/machine.md)
  std::uint64_t size = 0;               ///< content bytes, of all files for a tree
  std::optional<std::uint64_t> entries;  ///< tree: rows of its manifest
  bool executable = false;               ///< file: who may read it may run it
  std::string unpack;                    ///< file: tar, tar.gz, tar.bz2, tar.xz, tar.zst, or empty
  std::string materialize;               ///< image: qcow2, qcow2-zstd, qcow2-overlay, or empty: raw
  json::Object provenance;
  json::Object unknown;  ///< keys this version does not know, kept as they are

  friend bool operator==(const Vref&, const Vref&) = default;
};

[[nodiscard]] std::string_view to_string(Vref::Type type) noexcept;

/// The file's text: fixed key order, then unknown keys.
[[nodiscard]] std::string to_text(const Vref& vref);

/// Refused if malformed or larger than kMaxVref; no_store if of a version this program does not know.
[[nodiscard]] Vref parse_vref(std::string_view text);

/// Whether `a` and `b` differ in nothing but `added`, `place` and `etag`, which another fetch of the same
/// content may change. Of these, one that holds a secret (base::holds_secret) counts.
[[nodiscard]] bool same_but_for_fetch(const Vref& a, const Vref& b);
/// Members of the provenance that hold a secret, as others may write them; those that this project does not
/// know, too.
[[nodiscard]] std::vector<std::string> secrets_of(const Vref& vref);
/// Takes secrets out of all URLs in the provenance.
void remove_secrets(Vref& vref);

}  // namespace formats
