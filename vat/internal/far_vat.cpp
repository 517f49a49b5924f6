#include "vat/internal/far_vat.h"

#include "vat/internal/vat_impl.h"

namespace vat::internal {

FarVat::FarVat(const PeerAddress& address, const PeerOptions& options)
    : address_(address), limits_(limits_of(options)), peers_({address}, options) {}

std::optional<std::set<std::string>> FarVat::packs() {
  const auto names = peers_.find_packs(0);
  if (!names) return std::nullopt;
  return std::set<std::string>(names->begin(), names->end());
}

Upload& FarVat::upload() {
  if (!upload_) upload_.emplace(address_, limits_);
  return *upload_;
}

void FarVat::make(base::ObjectFormat format, const chunker::Parameters& parameters) {
  put("vat.json", base::as_bytes(Vat::Impl::new_settings(format, parameters)));
}

void FarVat::put(const std::string& file, int fd, bool replace) {
  upload().put(file, fd, base::file_size(fd), replace);
}

void FarVat::put_pack_list(const std::vector<std::string>& added) {
  auto names = packs().value_or(std::set<std::string>());
  names.insert(added.begin(), added.end());
  std::string text;
  for (const auto& pack : names) text += pack + "\n";
  put("cache/packs", base::as_bytes(text));
}

}  // namespace vat::internal
