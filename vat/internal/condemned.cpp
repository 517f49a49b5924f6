#include "vat/internal/condemned.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <optional>
#include <string_view>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "vat/internal/vat_impl.h"

namespace vat::internal {
namespace {

constexpr const char* kCondemned = "condemned";
constexpr std::size_t kMaxMark = 64;
constexpr std::size_t kNameSize = 64;  ///< of a pack, without .zst

std::optional<base::UniqueFd> find_marks(int vat) {
  return base::find_open_at(vat, std::string("cache/") + kCondemned, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

std::map<std::string, Mark> read(int vat, std::int64_t now, bool mend) {
  std::map<std::string, Mark> all;
  const auto marks = find_marks(vat);
  if (!marks) return all;
  for (const auto& name : base::list_directory(marks->get())) {
    if (!Vat::Impl::is_pack_name(name + ".zst")) continue;
    const auto file = base::find_regular_at(marks->get(), name);
    if (!file) continue;
    std::string text(kMaxMark, '\0');
    text.resize(base::read_some(file->get(), {reinterpret_cast<std::byte*>(text.data()), text.size()}));
    std::string_view rest = text;
    auto line = base::take_field(rest, '\n');
    const auto since = base::parse_decimal(base::take_field(line, ' '));
    // What another run wrote after this one began is no mark of the future.
    const auto latest = static_cast<std::uint64_t>(std::max<std::int64_t>(now, std::time(nullptr)));
    const bool is_known = since && *since <= latest && (line.empty() || line == "dead");
    all[name + ".zst"] = {is_known ? static_cast<std::int64_t>(*since) : now, line == "dead"};
    if (!is_known && mend) write_mark(vat, name + ".zst", all[name + ".zst"]);
  }
  return all;
}

}  // namespace

std::map<std::string, Mark> read_marks(int vat, std::int64_t now) {
  return read(vat, now, false);
}

void mend_marks(int vat, std::int64_t now) {
  (void)read(vat, now, true);
}

CondemnedLock::CondemnedLock(int vat) {
  const auto local = base::ensure_directory(vat, "local", 0700);
  file_ = base::open_at(local.get(), "condemned.lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  while (::flock(file_.get(), LOCK_EX) != 0)
    if (errno != EINTR) base::throw_errno("lock local/condemned.lock", errno);
}

void write_mark(int vat, const std::string& pack, const Mark& mark) {
  const auto cache = base::ensure_directory(vat, "cache", 0777);
  const auto marks = base::ensure_directory(cache.get(), kCondemned, 0777);
  base::remove_leftovers(marks.get());
  base::write_file_atomically(marks.get(), pack.substr(0, kNameSize),
                              base::as_bytes(std::to_string(mark.since) + (mark.is_dead ? " dead\n" : "\n")));
}

void remove_mark(int vat, const std::string& pack) {
  if (const auto marks = find_marks(vat))
    (void)::unlinkat(marks->get(), pack.substr(0, kNameSize).c_str(), 0);
}

bool has_mark(int vat, const std::string& pack) {
  struct stat info {};
  const auto marks = find_marks(vat);
  return marks && ::fstatat(marks->get(), pack.substr(0, kNameSize).c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
}

}  // namespace vat::internal
