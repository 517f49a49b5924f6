#include "wedge/internal/survey.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/entry_key.h"

namespace wedge::internal {

using base::Error;
using base::find_stat;
using base::ObjectId;
using formats::Row;

namespace {

bool has_time(const struct stat& info, const Row& made) {
  return info.st_mtim.tv_sec == made.mtime.seconds && info.st_mtim.tv_nsec == made.mtime.nanoseconds;
}

/// Whether an image whose content has no id still is what the record says. Where that cannot be told, its
/// time stands for it.
bool holds_image(const WedgeDir& dir, int parent, const std::string& name, const struct stat& info,
                 const Row& made, const Record& record, const SpotCheck& spot_check,
                 vat::BlobSource* source) {
  const auto content = root_of(record.key, record.format);
  if (!content || !content->recipe) return has_time(info, made);  // qcow2
  const auto state = state_of(info);
  const base::FileAt where{parent, name.c_str()};
  const auto known = dir.cache() != nullptr ? dir.cache()->find(state, where) : std::nullopt;
  // Another recipe may be of the same content, cut otherwise.
  if (known && known->recipe == content->recipe && !spot_check.is_due(state)) return true;
  if (source == nullptr) return has_time(info, made);
  const auto read_since = StatCache::now();
  const auto fd = base::open_at(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    source->learn(*content, true);  // of another host, where the recipe lies
    if (!holds_recipe(*source, *content->recipe, *formats::open_raw_disk(fd.get()))) return false;
  } catch (const Error& error) {
    const auto category = error.category();
    if (category == base::Category::local || category == base::Category::busy ||
        category == base::Category::internal)
      throw;
    return has_time(info, made);  // nobody who can be asked has what it was made of
  }
  KnownFile fresh = known.value_or(KnownFile());
  fresh.recipe = content->recipe;
  struct stat after;
  if (dir.cache() != nullptr && ::fstat(fd.get(), &after) == 0 && state_of(after) == state)
    dir.cache()->put(state, where, fresh, read_since);
  return true;
}

/// Whether an entry that is a file still is what `made` says.
bool is_as_made(const WedgeDir& dir, int parent, const std::string& name, const struct stat& info,
                const Row& made, const Record& record, const SpotCheck& spot_check, vat::BlobSource* source) {
  if (static_cast<std::uint64_t>(info.st_size) != made.size) return false;
  const bool has_id = made.blob != ObjectId();  // images need not have one
  // Without a cache nothing is read of what has the time it was given.
  if (dir.cache() == nullptr && has_time(info, made)) return true;
  if (!has_id) return holds_image(dir, parent, name, info, made, record, spot_check, source);
  const auto state = state_of(info);
  const base::FileAt where{parent, name.c_str()};
  const auto known = dir.cache() != nullptr ? dir.cache()->find(state, where) : std::nullopt;
  if (known && known->blob && !spot_check.is_due(state)) return *known->blob == made.blob;
  const auto read_since = StatCache::now();
  const auto fd = base::open_at(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (hash_content(fd.get(), record.format, made.size) != made.blob) return false;
  KnownFile fresh = known.value_or(KnownFile());
  fresh.blob = made.blob;
  struct stat after;
  if (dir.cache() != nullptr && ::fstat(fd.get(), &after) == 0 && state_of(after) == state)
    dir.cache()->put(state, where, fresh, read_since);
  return true;
}

/// False if the record says nothing.
bool compare(const WedgeDir& dir, const std::string& path, const Record& record, const SyncOptions& options,
             vat::BlobSource* source, const std::function<void(const Difference&)>& note) {
  const auto [parent_path, name] = formats::split_path(path);
  const auto parent = base::open_beneath(dir.top(), parent_path, O_RDONLY | O_DIRECTORY);
  const auto info = find_stat(parent.get(), name);
  if (!info) {
    note({Difference::Kind::missing, ".", {}});
    return true;
  }
  const auto first = read_first(dir.records(), record_name(path) + ".state");
  if (!first) return false;
  if (first->type == Row::Type::file) {
    if (!S_ISREG(info->st_mode))
      note({Difference::Kind::type, ".", {}});
    else if (!is_as_made(dir, parent.get(), name, *info, *first, record, options.spot_check, source))
      note({Difference::Kind::content, ".", {}});
    else if (is_executable(record.key) && (first->mode & S_IXUSR) != 0 && (info->st_mode & S_IXUSR) == 0)
      note({Difference::Kind::metadata, ".", "mode"});
    else if (!has_time(*info, *first))
      note({Difference::Kind::metadata, ".", "time"});
    return true;
  }
  if (!S_ISDIR(info->st_mode)) {
    note({Difference::Kind::type, ".", {}});
    return true;
  }
  const auto top = base::open_beneath(dir.top(), path, O_RDONLY | O_DIRECTORY);
  CompareOptions compare;
  compare.threads = options.threads;
  compare.read_content = dir.cache() != nullptr;
  compare.cache = dir.cache();
  compare.spot_check = options.spot_check;
  const auto made = fidelity_of(record.key);
  compare.fidelity = {options.fidelity.owners && made.owners, options.fidelity.acls && made.acls, made.fifos,
                      made.devices, made.shared};
  const auto next = read_kept_rows(dir.records(), record_name(path) + ".state");
  (void)compare_tree(top.get(), record.format, next, compare, note);
  return true;
}

/// By-products and kept paths change the time of the directory they lie in.
bool is_time(const Difference& difference) {
  return difference.kind == Difference::Kind::metadata && difference.detail == "time";
}

/// Which of these paths of an entry are hard links that became files of their own with the same content, as a
/// copy does and overlayfs, which copies what is linked or written. Nothing is lost with them.
std::set<std::string> find_broken_links(const WedgeDir& dir, const std::string& path, const Record& record,
                                        const std::set<std::string>& paths) {
  std::set<std::string> broken;
  if (paths.empty()) return broken;
  const auto state = record_name(path) + ".state";
  std::map<std::string, std::string> target_of;
  Row row;
  for (const auto next = read_kept_rows(dir.records(), state); next(row);)
    if (row.type == Row::Type::hard_link && paths.contains(row.path)) target_of.emplace(row.path, row.target);
  std::map<std::string, Row> targets;
  for (const auto& [link, target] : target_of) targets.try_emplace(target);
  for (const auto next = read_kept_rows(dir.records(), state); next(row);)
    if (const auto target = targets.find(row.path); target != targets.end()) target->second = row;
  if (target_of.empty()) return broken;  // what lies there may be no tree at all
  const auto top = base::open_beneath(dir.top(), path, O_RDONLY | O_DIRECTORY);
  for (const auto& [link, target] : target_of) {
    const auto& wanted = targets.at(target);
    const auto [parent_path, name] = formats::split_path(link);
    const auto parent = base::open_beneath(top.get(), parent_path, O_RDONLY | O_DIRECTORY);
    const auto file = base::find_regular_at(parent.get(), name);
    if (file && wanted.type == Row::Type::file &&
        hash_content(file->get(), record.format, wanted.size) == wanted.blob)
      broken.insert(link);
  }
  return broken;
}

bool is_directory(const WedgeDir& dir, const std::string& path) {
  try {
    (void)base::open_beneath(dir.top(), path, O_PATH | O_DIRECTORY);
    return true;
  } catch (const Error&) {
    return false;
  }
}

bool is_empty_directory(const WedgeDir& dir, const std::string& path) {
  try {
    const auto top = base::open_beneath(dir.top(), path, O_RDONLY | O_DIRECTORY);
    return base::list_directory(top.get()).empty();
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

Survey survey(const WedgeDir& dir, const std::string& path, const Record& record, const SyncOptions& options,
              vat::BlobSource* source) {
  Survey result;
  bool intact = true;
  std::set<std::string> other_types;
  const bool readable = compare(dir, path, record, options, source, [&](const Difference& difference) {
    if (is_time(difference)) {
      result.touched =
          result.touched || !is_directory(dir, difference.path == "." ? path : path + "/" + difference.path);
      return;
    }
    const bool extra = difference.kind == Difference::Kind::extra;
    if (extra && (options.keep_extra || is_by_product(difference.path))) {
      result.carried.push_back(difference.path);
      return;
    }
    intact = false;
    if (difference.kind == Difference::Kind::type) other_types.insert(difference.path);
    if (difference.kind != Difference::Kind::missing) result.in_the_way.push_back(difference);
  });
  const auto broken = find_broken_links(dir, path, record, other_types);
  std::erase_if(result.in_the_way,
                [&](const Difference& difference) { return broken.contains(difference.path); });
  result.intact = readable && intact;
  return result;
}

void list_changes(const WedgeDir& dir, const std::string& path, const Record& record,
                  const SyncOptions& options, vat::BlobSource* source,
                  const std::function<void(const Difference&)>& note) {
  (void)compare(dir, path, record, options, source, [&](const Difference& difference) {
    const bool extra = difference.kind == Difference::Kind::extra;
    if (!is_time(difference) && !(extra && is_by_product(difference.path))) note(difference);
  });
}

bool is_adoptable(const WedgeDir& dir, vat::BlobSource& source, const std::string& path,
                  const EntryRoot& root, const SyncOptions& options, std::vector<Difference>& in_the_way) {
  CompareOptions compare;
  compare.threads = options.threads;
  compare.cache = dir.cache();
  compare.fidelity = options.fidelity;
  compare.scratch = options.scratch;
  const auto count =
      verify_below(source, dir.top(), -1, path, root, compare, [&](const Difference& difference) {
        if (difference.kind != Difference::Kind::missing) in_the_way.push_back(difference);
      });
  if (count > 0 && is_empty_directory(dir, path)) in_the_way.clear();
  return count == 0;
}

}  // namespace wedge::internal
