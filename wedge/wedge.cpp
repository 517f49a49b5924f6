#include "wedge/wedge.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "wedge/internal/entry.h"
#include "wedge/internal/entry_key.h"
#include "wedge/internal/entry_maker.h"
#include "wedge/internal/move.h"
#include "wedge/internal/record.h"
#include "wedge/internal/settle.h"
#include "wedge/internal/survey.h"
#include "wedge/internal/wedge_dir.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;
using base::find_stat;
using formats::Row;
using internal::EntryMaker;
using internal::is_by_product;
using internal::key_of;
using internal::Record;
using internal::record_name;
using internal::RecordWriter;
using internal::settle;
using internal::Survey;
using Outcome = SyncResult::Outcome;

/// Has a source expect what will be read, as long as this lives.
class Expecting {
 public:
  Expecting(vat::BlobSource& source, const vat::Expected& expected) : source_(source) {
    source_.expect(expected);
  }
  ~Expecting() { source_.expect_nothing(); }
  Expecting(const Expecting&) = delete;
  Expecting& operator=(const Expecting&) = delete;

 private:
  vat::BlobSource& source_;
};

}  // namespace

std::string_view to_string(Outcome outcome) noexcept {
  static constexpr const char* kNames[] = {"unchanged", "created", "updated",
                                           "adopted",   "removed", "blocked"};
  return kNames[static_cast<std::size_t>(outcome)];
}

std::string_view to_string(EntryStatus::State state) noexcept {
  static constexpr const char* kNames[] = {"clean", "missing", "outdated", "changed", "foreign"};
  return kNames[static_cast<std::size_t>(state)];
}

bool is_shared(const std::string& path) {
  // Looked at, not opened: whoever may not look into it may verify the wedge all the same.
  const auto state = base::find_stat(AT_FDCWD, path + "/.shrub");
  return state && S_ISDIR(state->st_mode) && (state->st_mode & (S_ISGID | S_IWGRP)) == (S_ISGID | S_IWGRP);
}

void share(const std::string& path) {
  if (is_shared(path)) return;
  base::make_directories(path);
  const auto top = base::open_directory(AT_FDCWD, path);
  base::share(top.get());
  const auto state = base::ensure_directory(top.get(), ".shrub", 0700);
  for (const auto* name : {"tmp", "old", "entries"})
    base::share(base::ensure_directory(state.get(), name, 0700).get());
  base::share(base::open_as_parent(state.get(), "lock").get());
  const auto entries = base::open_at(state.get(), "entries", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  for (const auto& name : base::list_directory(entries.get()))
    if (const auto file = base::find_regular_at(entries.get(), name)) base::share(file->get());
  base::share(state.get());  // last: it says that all is done
}

class Wedge::Impl {
 public:
  Impl(const std::string& path, bool read_only, StatCache* cache,
       std::function<void(const std::string&)> on_note)
      : dir_(path, read_only, cache, std::move(on_note)) {
    if (!read_only) unfinished_ = internal::recover(dir_);
  }

  SyncResult sync(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
                  const std::string& owner, const SyncOptions& options) {
    if (path == ".shrub" || path.starts_with(".shrub/"))
      throw Error(Category::refused, "no entry can have this name: the wedge keeps its state there");
    forget_unfinished(path, options);
    const auto record = dir_.find_record(path);
    const auto [parent_path, name] = formats::split_path(path);
    auto parent = dir_.find_parent(parent_path);
    const auto there = parent ? find_stat(parent->get(), name) : std::nullopt;
    SyncResult result;
    if (there && internal::is_unfinished(dir_, path, *there)) {
      result.outcome = Outcome::updated;
      return result;
    }
    const EntryMaker maker(dir_, source, path, root, options);
    Record made{path, owner, key_of(root, options.fidelity), 0, base::random_name(), source.object_format()};
    Survey found;
    if (there && record) {
      found = survey(dir_, path, *record, options, &source);
      if (found.intact && record->key == made.key) return result;
    } else if (there && is_adoptable(dir_, source, path, root, options, found.in_the_way)) {
      result.outcome = Outcome::adopted;
      if (!options.dry_run) maker.write_record(made);
      return result;
    }
    if (!found.in_the_way.empty() && !options.overwrite) return blocked(std::move(found.in_the_way));
    const auto extras = found.carried.size();
    if (options.keep_extra && !found.carried.empty()) {
      auto collisions = maker.find_collisions(found.carried);
      if (!collisions.empty() && !options.overwrite) return blocked(std::move(collisions));
    }
    if (there) internal::refuse_mounts(dir_.top(), path);
    if (root.below && !stands(*root.below, source.object_format()))
      throw Error(Category::refused,
                  path + ": its overlay belongs on " + root.below->entry +
                      ", which is not in this wedge, or is of another image",
                  "sync both");
    if (auto overlays = remove_overlays(path, &root, options); !overlays.empty())
      return blocked(std::move(overlays));
    result.outcome = there ? Outcome::updated : Outcome::created;
    const auto reading = [&] { return maker.reading(found.intact ? record : std::nullopt); };
    if (options.on_reading) options.on_reading(reading());
    if (options.dry_run) return result;

    const Expecting expecting(source, reading());
    if (!parent) parent = dir_.make_parent(parent_path);
    auto work = base::ensure_directory(dir_.tmp(), made.workspace, 0700);
    // Extra paths move over as a whole, where none can get lost in what changes around it.
    if (found.intact && !found.touched && options.in_place && found.carried.size() == extras &&
        std::all_of(found.carried.begin(), found.carried.end(), is_by_product) &&
        maker.can_change_in_place(*record, *there)) {
      auto changed = made;
      changed.in_place = true;
      changed.inode = there->st_ino;
      if (const auto summary = maker.stage(*record, changed, work.get())) {
        result.summary = *summary;
        dir_.wait_for_clock();
        for (const auto& left : settle(dir_, changed, false))
          result.in_the_way.push_back({Difference::Kind::content, left, {}});
        if (result.in_the_way.empty())
          maker.remember_content();
        else
          result.outcome = Outcome::blocked;
        return result;
      }
    }
    {
      RecordWriter next(dir_.records(), made, work.get());
      result.summary = maker.build(work.get(), there && S_ISDIR(there->st_mode), next);
      maker.carry(found.carried, work.get());
      auto& summary = result.summary;
      if (next.top().type == Row::Type::directory && can_be_moved_with(next.top()) &&
          internal::set_top(work.get(), "new", next.top(), options.fidelity).any())
        ++summary.kept_otherwise;
      // Everything below is durable before the entry changes, and the record of what it will be before that.
      if (::syncfs(work.get()) != 0) base::throw_errno("sync", errno);
      if (internal::is_tree(root) && summary.kept_otherwise + summary.skipped_xattrs > 0)
        summary.kept_otherwise = maker.write_kept(made, work.get(), next);
      else
        next.publish(record_name(path) + ".next");
    }
    if (maker.is_remembered()) dir_.wait_for_clock();
    internal::swap_in(work.get(), parent->get(), name, there.has_value());
    base::sync_directory(parent->get());
    work.reset();
    (void)settle(dir_, made, false);
    return result;
  }

  SyncResult remove(const std::string& path, const SyncOptions& options) {
    forget_unfinished(path, options);
    SyncResult result;
    result.outcome = Outcome::removed;
    const auto record = dir_.find_record(path);
    const auto [parent_path, name] = formats::split_path(path);
    const auto parent = dir_.look_for_parent(parent_path);
    if (parent && find_stat(parent->get(), name)) {
      auto found = record ? survey(dir_, path, *record, options, nullptr) : Survey();
      if ((!found.in_the_way.empty() && !options.overwrite) || (!found.carried.empty() && options.keep_extra))
        return blocked(std::move(found.in_the_way));
      internal::refuse_mounts(dir_.top(), path);
      if (auto overlays = remove_overlays(path, nullptr, options); !overlays.empty())
        return blocked(std::move(overlays));
      if (options.dry_run) return result;
      dir_.discard_old(record_name(path));
      internal::move_path(parent->get(), name, dir_.old(), record_name(path));
      base::sync_directory(parent->get());
    }
    if (!options.dry_run) base::remove_tree(dir_.records(), record_name(path) + ".state");
    return result;
  }

  EntryStatus status(const std::string& path, const EntryRoot& root, const SyncOptions& options,
                     vat::BlobSource* source) const {
    using State = EntryStatus::State;
    const auto record = dir_.find_record(path);
    const auto [parent_path, name] = formats::split_path(path);
    const auto parent = dir_.look_for_parent(parent_path);
    const auto there = parent ? find_stat(parent->get(), name) : std::nullopt;
    EntryStatus status;
    if (!there) {
      status.state = State::missing;
    } else if (internal::is_unfinished(dir_, path, *there)) {
      status.state = State::outdated;
    } else if (!record) {
      status.state = State::foreign;
    } else {
      list_changes(dir_, path, *record, options, source,
                   [&](const Difference& difference) { status.differences.push_back(difference); });
      if (!status.differences.empty())
        status.state = State::changed;
      else if (record->key != key_of(root, options.fidelity))
        status.state = State::outdated;
    }
    return status;
  }

  std::map<std::string, std::string> owners() const {
    std::map<std::string, std::string> owners;
    if (dir_.records() < 0) return owners;
    for (const auto& name : base::list_directory(dir_.records())) {
      if (!name.ends_with(".state")) continue;
      if (auto record = internal::read_record(dir_.records(), name))
        owners.emplace(std::move(record->path), std::move(record->owner));
    }
    return owners;
  }

  void give(const std::string& path, const std::string& owner) {
    const auto name = record_name(path) + ".state";
    auto reader = internal::open_record(dir_.records(), name);
    auto record = internal::read_sound_record(dir_.records(), name);
    if (!record || !reader) return;
    record->owner = owner;
    internal::RecordWriter writer(dir_.records(), *record, -1);
    std::optional<Row> kept;
    for (Row row; reader->next(row, kept);) {
      writer.add(row);
      if (kept) writer.add_kept(*kept);
    }
    writer.publish(name);
  }

 private:
  /// Whether the wedge holds what an overlay is to stand on.
  bool stands(const EntryRoot::Below& below, base::ObjectFormat format) const {
    const auto record = dir_.find_record(below.entry);
    return record && internal::content_of(record->key, format).recipe == below.recipe;
  }

  static SyncResult blocked(std::vector<Difference> in_the_way) {
    SyncResult result;
    result.outcome = Outcome::blocked;
    result.in_the_way = std::move(in_the_way);
    return result;
  }

  /// A directory can only be moved by who may write it; one that says otherwise gets its mode when it lies in
  /// place.
  static bool can_be_moved_with(const Row& top) { return ::geteuid() == 0 || (top.mode & S_IWUSR) != 0; }

  /// Before an image changes: overlays on what it was would show something else. Those that are made anew
  /// afterwards go; what is in the way of that is returned. `after`: what it will be; nullptr: gone.
  std::vector<Difference> remove_overlays(const std::string& path, const EntryRoot* after,
                                          const SyncOptions& options) {
    std::vector<Difference> in_the_way;
    const auto before = dir_.find_record(path);
    if (!before || !before->key.starts_with("image ")) return in_the_way;
    const auto name = record_name(path);
    for (const auto& other : base::list_directory(dir_.records())) {
      const auto record =
          other.ends_with(".state") ? internal::read_record(dir_.records(), other) : std::nullopt;
      const auto stand = record ? internal::stand_of(record->key, record->format) : std::nullopt;
      if (!stand || stand->record != name) continue;
      if (after != nullptr && after->recipe == stand->recipe && after->is_qcow2() == stand->is_qcow2)
        continue;
      if (!options.is_next || !options.is_next(record->path))
        throw Error(Category::refused, path + ": " + record->path + " is an overlay on it", "sync both");
      for (auto& difference : remove(record->path, options).in_the_way) {
        difference.detail = record->path + " stands on this, and was changed";
        in_the_way.push_back(std::move(difference));
      }
    }
    return in_the_way;
  }

  /// What could not be finished stops its own entry only, and is given up if the entry is to be replaced.
  void forget_unfinished(const std::string& path, const SyncOptions& options) {
    const auto unfinished = unfinished_.find(path);
    if (unfinished == unfinished_.end()) return;
    if (!options.overwrite)
      throw Error(Category::refused,
                  std::string("a sync that was interrupted cannot be finished: ") + unfinished->second.what(),
                  "mend that, or let --overwrite replace the entry as a whole");
    for (const auto* suffix : {".next", ".state"})
      base::remove_tree(dir_.records(), record_name(path) + suffix);
    unfinished_.erase(unfinished);
  }

  const internal::WedgeDir dir_;
  std::map<std::string, Error> unfinished_;  ///< entries whose interrupted change could not be finished
};

Wedge::Wedge(const std::string& path, bool read_only, StatCache* cache,
             std::function<void(const std::string&)> on_note)
    : impl_(std::make_unique<Impl>(path, read_only, cache, std::move(on_note))) {}
Wedge::~Wedge() = default;

SyncResult Wedge::sync(vat::BlobSource& source, const std::string& path, const EntryRoot& root,
                       const std::string& owner, const SyncOptions& options) {
  return base::named(path, [&] { return impl_->sync(source, path, root, owner, options); });
}

EntryStatus Wedge::status(const std::string& path, const EntryRoot& root, const SyncOptions& options,
                          vat::BlobSource* source) const {
  return base::named(path, [&] { return impl_->status(path, root, options, source); });
}

SyncResult Wedge::remove(const std::string& path, const SyncOptions& options) {
  return base::named(path, [&] { return impl_->remove(path, options); });
}

std::map<std::string, std::string> Wedge::owners() const {
  return impl_->owners();
}

void Wedge::give(const std::string& path, const std::string& owner) {
  base::named(path, [&] { impl_->give(path, owner); });
}

std::uint64_t verify_entry(vat::BlobSource& source, const std::string& wedge, const std::string& path,
                           const EntryRoot& root, const CompareOptions& options,
                           const std::function<void(const Difference&)>& on_difference) {
  const auto top = base::open_directory(AT_FDCWD, wedge);
  std::optional<base::UniqueFd> records;
  try {
    records = base::find_open_at(top.get(), ".shrub/entries", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  } catch (const Error& error) {
    if (error.category() != Category::local) throw;  // of somebody else: the vref alone counts
  }
  return base::named(path, [&] {
    return internal::verify_below(source, top.get(), records ? records->get() : -1, path, root, options,
                                  on_difference);
  });
}

}  // namespace wedge
