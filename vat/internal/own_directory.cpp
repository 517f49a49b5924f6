#include "vat/internal/own_directory.h"

#include <fcntl.h>

#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "formats/vat_json/vat_settings.h"

namespace vat::internal {
namespace {

constexpr std::size_t kMaxSettings = std::size_t{64} << 10;

bool is_to_be_shared(int vat) {
  const auto text = base::find_file(vat, "vat.json", kMaxSettings);
  return text && formats::parse_vat_settings(*text).is_shared;
}

}  // namespace

base::UniqueFd open_own(int vat, const char* name, const std::string& below) {
  auto own = base::find_open_at(vat, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!own) {
    own = base::ensure_directory(vat, name, 0700);
    if (is_to_be_shared(vat)) base::share(own->get());
  }
  return below.empty() ? std::move(*own) : base::ensure_directory_as_parent(own->get(), below, 0700);
}

base::UniqueFd open_public(int vat, const std::string& path) {
  auto at = base::open_at(vat, ".", O_RDONLY | O_DIRECTORY);
  for (std::string_view rest = path; !rest.empty();)
    at = base::ensure_directory_as_parent(at.get(), std::string(base::take_field(rest, '/')), 0777);
  return at;
}

}  // namespace vat::internal
