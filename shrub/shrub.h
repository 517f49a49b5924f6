// A shrub: a directory of vrefs with a VAT.json at its top. Start reading shrub/ here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/error.h"
#include "formats/vat_json/vat_list.h"
#include "formats/vref/vref.h"
#include "vat/blob_source.h"
#include "vat/vat.h"
#include "wedge/wedge.h"

namespace shrub {
namespace internal {
class Files;
}

inline constexpr const char* kVatListFile = "VAT.json";
inline constexpr const char* kVrefSuffix = ".vref";

/// One open shrub. Values read from files of the repository are not trusted: see vats.h. One thread at a
/// time.
class Shrub {
 public:
  /// Finds the shrub that `path` (a directory, or a file that may not exist yet) lies in, by looking for
  /// VAT.json in it and above. Throws no_store if there is none.
  static Shrub find(const std::string& path);
  /// The same as a commit of the git repository around it has it; nothing has to be checked out. Throws
  /// no_store, not_found for the revision.
  static Shrub find_at(const std::string& path, const std::string& revision);

  /// False if create() has nothing to do. Throws refused as create() would.
  [[nodiscard]] static bool would_create(const std::string& path, const formats::VatList& list);
  /// Makes VAT.json in `path`. Making the same shrub again is fine; another list is refused.
  static Shrub create(const std::string& path, const formats::VatList& list);

  [[nodiscard]] const std::string& root() const noexcept { return root_; }  ///< absolute, without symlinks
  /// The commit it is read from; empty for the directory as it is.
  [[nodiscard]] const std::string& commit() const noexcept { return commit_; }
  [[nodiscard]] const formats::VatList& list() const noexcept { return list_; }

  /// `path` relative to the root. Throws refused if it lies outside.
  [[nodiscard]] std::string relative(const std::string& path) const;

  /// Entry paths (relative, without .vref) of all vrefs at or below `below` (relative; "." for all), in byte
  /// order. Throws refused where a vref and a directory clash. Symlinks are not followed; `links` gets those
  /// that may have been meant as vrefs, or as directories of some.
  [[nodiscard]] std::vector<std::string> entries(const std::string& below,
                                                 std::vector<std::string>* links = nullptr) const;

  [[nodiscard]] formats::Vref read(const std::string& entry) const;
  [[nodiscard]] std::optional<formats::Vref> find_vref(const std::string& entry) const;
  /// A file of the shrub as it is; nullopt if there is none. Throws refused if it is larger than `limit`
  /// bytes.
  [[nodiscard]] std::optional<std::string> find_text(const std::string& path, std::size_t limit) const;
  /// Throws refused for a shrub of a commit.
  void write_text(const std::string& path, const std::string& text) const;
  /// Throws refused if no entry can have that name, or it clashes with another or with a directory.
  void require_free(const std::string& entry) const;
  /// Whether the vref says something new, beyond the time it was added. Throws refused if an entry cannot
  /// have that name, or clashes with another.
  [[nodiscard]] bool would_write(const std::string& entry, const formats::Vref& vref) const;
  /// Writes the vref if it would; returns whether it was written. Throws refused for a shrub of a commit.
  bool write(const std::string& entry, const formats::Vref& vref) const;

 private:
  Shrub(std::string root, std::shared_ptr<const internal::Files> files, std::string commit = {});
  std::string root_;
  std::shared_ptr<const internal::Files> files_;  // shared: a Shrub is a value
  std::string commit_;
  formats::VatList list_;
};

/// What a vref becomes in a wedge.
[[nodiscard]] wedge::EntryRoot entry_root(const formats::Vref& vref);
/// All that a vat has to have for a vref: its content, then its trace, if it names one.
[[nodiscard]] std::vector<vat::Root> roots_of(const formats::Vref& vref);

}  // namespace shrub
