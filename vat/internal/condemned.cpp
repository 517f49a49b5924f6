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

#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/vat_impl.h"

namespace vat::internal {
namespace {

constexpr const char* kCondemned = "condemned";
constexpr std::size_t kNameSize = 64;  ///< of a pack, without .zst

std::optional<base::UniqueFd> find_marks(int vat) {
  return base::find_open_at(vat, std::string("cache/") + kCondemned, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

/// File names of the marks, by that of the pack.
std::multimap<std::string, std::string> list_marks(int marks) {
  std::multimap<std::string, std::string> names;
  for (const auto& name : base::list_directory(marks))
    if (auto pack = name.substr(0, kNameSize) + ".zst"; Vat::Impl::is_pack_name(pack))
      names.emplace(std::move(pack), name);
  return names;
}

constexpr std::int64_t kFirstDay = 1'577'836'800;  ///< 2020: what says earlier had no clock

/// What the name of a mark says; no time if it says none, or one that cannot be: of the future, or from
/// before the pack was there.
struct Said {
  std::optional<std::int64_t> since;
  bool is_dead = false;
};

Said parse(std::string_view name, std::int64_t made, std::int64_t now) {
  name.remove_prefix(kNameSize);
  if (!base::take_field(name, '.').empty()) return {};
  const auto since = base::parse_decimal(base::take_field(name, '.'));
  if (!name.empty() && name != "dead") return {};
  Said said{std::nullopt, name == "dead"};
  // What another run made after this one began is no mark of the future.
  const auto latest = static_cast<std::uint64_t>(std::max<std::int64_t>(now, std::time(nullptr)));
  if (since && *since <= latest && static_cast<std::int64_t>(*since) >= std::max(made, kFirstDay))
    said.since = static_cast<std::int64_t>(*since);
  return said;
}

std::string name_of(const std::string& pack, const Mark& mark) {
  return pack.substr(0, kNameSize) + "." + std::to_string(mark.since) + (mark.is_dead ? ".dead" : "");
}

std::map<std::string, Mark> read(int vat, std::int64_t now, bool mend) {
  std::map<std::string, Mark> all;
  const auto marks = find_marks(vat);
  if (!marks) return all;
  for (const auto& [pack, name] : list_marks(marks->get())) {
    const auto info = base::find_stat(vat, std::string(Vat::Impl::kPackDir) + "/" + pack, true);
    const auto said = parse(name, info ? info->st_mtim.tv_sec : 0, now);
    const Mark mark{said.since.value_or(now), said.is_dead};
    if (const auto known = all.find(pack); known == all.end() || known->second.since < mark.since)
      all[pack] = mark;
    if (said.since || !mend) continue;
    write_mark(vat, pack, mark);
    (void)::unlinkat(marks->get(), name.c_str(), 0);
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
  file_ = base::open_as_parent(open_own(vat, kLocal).get(), "condemned.lock");
  while (::flock(file_.get(), LOCK_EX) != 0)
    if (errno != EINTR) base::throw_errno("lock local/condemned.lock", errno);
}

void write_mark(int vat, const std::string& pack, const Mark& mark) {
  const auto marks = open_public(vat, std::string("cache/") + kCondemned);
  (void)base::open_at(marks.get(), name_of(pack, mark), O_RDONLY | O_CREAT | O_NOFOLLOW, 0444);
}

void remove_marks(int vat, const std::set<std::string>& packs) {
  const auto marks = find_marks(vat);
  if (!marks) return;
  for (const auto& [pack, name] : list_marks(marks->get()))
    if (packs.contains(pack)) (void)::unlinkat(marks->get(), name.c_str(), 0);
}

bool has_mark(int vat, const std::string& pack) {
  const auto marks = find_marks(vat);
  return marks && list_marks(marks->get()).contains(pack);
}

bool has_mark(int vat, const std::string& pack, const Mark& mark) {
  const auto marks = find_marks(vat);
  return marks && base::find_stat(marks->get(), name_of(pack, mark));
}

}  // namespace vat::internal
