// A pack on its way into a vat: written group by group, then published and indexed at once.
#pragma once

#include <string>
#include <vector>

#include "formats/base/atomic_file.h"
#include "formats/pack/pack.h"
#include "vat/internal/index.h"
#include "vat/internal/vat_impl.h"

namespace vat::internal {

/// One thread at a time. Destroyed before publish() it leaves nothing. Errors: local, busy.
class PackFile {
 public:
  /// `vat` outlives it.
  explicit PackFile(Vat::Impl& vat);
  /// Returns where the group lies; it has not reached the disk for certain.
  formats::GroupPlace append(const formats::EncodedGroup& group);
  [[nodiscard]] std::uint64_t size() const noexcept { return writer_.size(); }
  [[nodiscard]] std::size_t blob_count() const noexcept { return writer_.blob_count(); }
  [[nodiscard]] int fd() const noexcept { return file_.fd(); }
  /// Makes it durable and indexed together with `claims`, or not at all. Returns its SHA-256 in hex.
  std::string publish(const std::vector<Claim>& claims);

 private:
  Vat::Impl& vat_;
  base::UniqueFd packs_;
  base::AtomicFile file_;
  formats::PackWriter writer_;
  std::vector<IndexedBlob> blobs_;
};

}  // namespace vat::internal
