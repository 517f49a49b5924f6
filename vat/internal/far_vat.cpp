#include "vat/internal/far_vat.h"

#include <algorithm>

#include "formats/base/numbers.h"
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
  put("vat.json", base::as_bytes(Vat::Impl::new_settings(format, parameters, false)));
}

void FarVat::put(const std::string& file, int fd, bool replace) {
  upload().put(file, fd, base::file_size(fd), replace);
}

void FarVat::put_pack_list(const std::vector<std::string>& added) {
  // What replaces the list names all that it named, or all that is there.
  std::set<std::string> names(added.begin(), added.end());
  const auto listed = peers_.list(0, Vat::Impl::kPackDir);
  if (listed)
    for (const auto& name : *listed)
      if (Vat::Impl::is_pack_name(name)) names.insert(name.substr(0, 64));
  const bool has_packs = listed && std::any_of(listed->begin(), listed->end(), Vat::Impl::is_pack_name);
  const bool is_complete = has_packs && std::all_of(added.begin(), added.end(), [&](const auto& pack) {
                             return std::find(listed->begin(), listed->end(), pack + ".zst") != listed->end();
                           });
  if (!is_complete) {
    const auto old = peers_.find_pack_list(0);
    for (std::string_view rest = old ? std::string_view(*old) : std::string_view(); !rest.empty();)
      if (auto name = std::string(base::take_field(rest, '\n')); Vat::Impl::is_pack_name(name + ".zst"))
        names.insert(std::move(name));
  }
  std::string text;
  for (const auto& pack : names) text += pack + "\n";
  put("cache/packs", base::as_bytes(text));
}

}  // namespace vat::internal
