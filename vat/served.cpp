#include "vat/served.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "formats/text/text_object.h"
#include "vat/internal/own_directory.h"

namespace vat {
namespace {

using base::Category;
using base::Error;

constexpr const char* kDirectory = "local/shrubs";
constexpr std::size_t kMaxEntry = std::size_t{64} << 10;

std::string name_of(const std::string& path) {
  return base::hash_blob(base::ObjectFormat::sha256, base::as_bytes(path)).hex();
}

std::optional<base::UniqueFd> find_directory(const std::string& vat) {
  return base::find_open_at(AT_FDCWD, vat + "/" + kDirectory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

}  // namespace

void note_served(Vat& vat, const ServedShrub& shrub) {
  const auto name = name_of(shrub.path);
  const auto text = formats::escape(shrub.path) + "\n" + formats::escape(shrub.repository) + "\n";
  if (const auto known = find_directory(vat.path());
      known && base::find_stat(known->get(), name) && base::find_file(known->get(), name, kMaxEntry) == text)
    return;
  const auto top = base::open_directory(AT_FDCWD, vat.path());
  const auto shrubs = internal::open_own(top.get(), internal::kLocal, "shrubs");
  base::write_file_atomically(shrubs.get(), name, base::as_bytes(text));
}

std::vector<ServedShrub> list_served(const Vat& vat) {
  std::vector<ServedShrub> all;
  const auto shrubs = find_directory(vat.path());
  if (!shrubs) return all;
  for (const auto& name : base::list_directory(shrubs->get())) {
    if (name.starts_with('.')) continue;  // being written
    try {
      const auto text = base::find_file(shrubs->get(), name, kMaxEntry);
      if (!text) continue;  // forgotten meanwhile
      std::string_view rest = *text;
      ServedShrub served;
      served.path = formats::unescape(base::take_field(rest, '\n'));
      served.repository = formats::unescape(base::take_field(rest, '\n'));
      if (!served.path.starts_with('/') || name != name_of(served.path))
        throw Error(Category::refused, "names another path");
      all.push_back(std::move(served));
    } catch (const Error& error) {
      throw Error(Category::refused,
                  vat.path() + "/" + kDirectory + "/" + name +
                      ": does not say which shrub uses this vat: " + error.what(),
                  "remove it, if none does");
    }
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return all;
}

bool forget_served(Vat& vat, const std::string& path) {
  const auto shrubs = find_directory(vat.path());
  if (!shrubs) return false;
  if (::unlinkat(shrubs->get(), name_of(path).c_str(), 0) != 0) {
    if (errno != ENOENT) base::throw_errno(vat.path() + "/" + kDirectory, errno);
    return false;
  }
  base::sync_directory(shrubs->get());
  return true;
}

}  // namespace vat
