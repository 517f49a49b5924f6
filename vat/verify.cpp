#include "vat/verify.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <deque>
#include <set>
#include <unordered_set>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/worker_pool.h"
#include "formats/text/layout.h"
#include "formats/text/manifest.h"
#include "formats/text/recipe.h"
#include "vat/adder.h"
#include "vat/content.h"
#include "vat/internal/plan.h"
#include "vat/internal/vat_impl.h"
#include "vat/maps.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::BlobKind;
using formats::GroupPlace;
using formats::PackedBlob;
using internal::Place;

struct Group {
  GroupPlace place;
  std::vector<PackedBlob> blobs;
};

/// A damage and whether it hides ids that nothing names any more.
struct PackDamage : Damage {
  bool place_lost = false;
};

/// What a group turned out to hold: one entry a blob, empty if it is sound.
struct Checked {
  std::vector<std::string> faults;
};

bool is_bad_bytes(const Error& error) {
  return error.category() == Category::corrupt || error.category() == Category::refused;
}

/// Stores again those of the blobs that another vat has; returns them.
std::unordered_set<ObjectId> take_from(BlobSource* from, Vat& vat, const std::vector<ObjectId>& ids) {
  std::unordered_set<ObjectId> taken;
  if (from == nullptr || ids.empty()) return taken;
  Adder adder(vat, {1, formats::kDefaultLevel});
  for (const auto& id : ids) {
    try {
      const auto bytes = from->read(id);
      const auto stored = from->find(id);
      const auto kind = stored ? stored->kind : BlobKind::data;
      (void)adder.put(id, kind, kind == BlobKind::data ? Grouping::chunk : Grouping::text, bytes);
      taken.insert(id);
    } catch (const Error& error) {
      if (error.category() == Category::local || error.category() == Category::busy ||
          error.category() == Category::internal)
        throw;
      vat.impl().note(error.what());
    }
  }
  (void)adder.finish();
  return taken;
}

class PackCheck {
 public:
  PackCheck(Vat& vat, const VerifyOptions& options, base::WorkerPool& pool, std::string name)
      : vat_(vat),
        impl_(vat.impl()),
        options_(options),
        pool_(pool),
        name_(std::move(name)),
        file_("primary/pack/" + name_) {}

  /// Fills `damages`; the file counts as sound if it stays empty.
  void run(std::vector<PackDamage>& damages, VerifySummary& summary,
           const std::function<void(std::uint64_t)>& progress) {
    auto file = base::find_regular_at(impl_.dir.get(), file_);
    if (!file && !base::find_stat(impl_.dir.get(), file_)) return;  // another process removed it
    if (!file) return damages.push_back({{file_, std::nullopt, "is not a regular file", false}, true});
    fd_ = std::move(*file);
    size_ = base::file_size(fd_.get());
    list_groups(damages);
    if (options_.quick) return;
    auto hash = pool_.submit([this] { return base::to_hex(base::sha256_of_file(fd_.get())) + ".zst"; });
    std::deque<std::pair<const Group*, std::future<Checked>>> running;
    const auto finish_oldest = [&] {
      const Group* const group = running.front().first;
      const auto checked = running.front().second.get();
      running.pop_front();
      report(*group, checked, damages);
      summary.read_size += group->place.size;
      summary.blobs += group->blobs.size();
      ++summary.groups;
      if (progress) progress(summary.read_size);
    };
    std::size_t number = 0;
    for (const auto& group : groups_) {
      // An even spread; the same groups each time, so that a sample can be compared with itself.
      if (options_.sample < 100 && number++ % 100 >= options_.sample) continue;
      if (running.size() >= 16) finish_oldest();
      running.emplace_back(&group, pool_.submit([this, &group] { return check(group); }));
    }
    while (!running.empty()) finish_oldest();
    if (auto right = hash.get(); right != name_ && damages.empty()) {
      damages.push_back({{file_, std::nullopt, "its SHA-256 is not its name", false}, false});
      if (options_.sample >= 100) right_name_ = std::move(right);
    }
    if (damages.empty() && options_.sample >= 100)
      impl_.with_index([&](internal::Index& index) { index.mark_sound(name_); });
  }

  /// Whether all of it is sound, under a name that is another pack's.
  [[nodiscard]] bool is_misnamed() const { return !right_name_.empty(); }

  /// What became of a misnamed file: another lies in its place now and is to be looked at; it was moved; or
  /// it is a copy of a sound pack, or the file system has no way to do it in one step.
  enum class Renamed { exchanged, moved, no };

  /// Gives it its own name. A file that has that wrongly takes this one's.
  Renamed rename() {
    const auto packs = base::open_directory(impl_.dir.get(), Vat::Impl::kPackDir);
    const auto move = [&](unsigned flags) {
      return ::renameat2(packs.get(), name_.c_str(), packs.get(), right_name_.c_str(), flags) == 0;
    };
    auto renamed = Renamed::moved;
    if (!move(RENAME_NOREPLACE)) {
      if (errno == EINVAL || errno == ENOSYS) return Renamed::no;
      if (errno != EEXIST) base::throw_errno(file_, errno);
      if (is_rightly_named(packs.get())) return Renamed::no;
      if (!move(RENAME_EXCHANGE)) base::throw_errno(file_, errno);
      renamed = Renamed::exchanged;
    }
    base::sync_directory(packs.get());
    impl_.with_index([&](internal::Index& index) {
      index.forget_pack(name_);
      index.forget_pack(right_name_);
    });
    impl_.refresh(false);
    return renamed;
  }

  /// Stores what only this file holds elsewhere, then moves it away. False, and nothing done, if some id
  /// would be lost. Where damage hides what else it held, and it is not arriving just now, all that can be
  /// read of it is stored and it goes to the quarantine, but that is no repair: false, too.
  bool repair(const std::vector<PackDamage>& damages) {
    std::unordered_set<ObjectId> lost;
    bool hidden = false;
    for (const auto& damage : damages) {
      if (!damage.id && damage.place_lost) hidden = true;
      if (damage.id && !has_other_copy(*damage.id)) lost.insert(*damage.id);
    }
    if (hidden && (!fd_ || is_arriving())) return false;
    if (take_from(options_.from, vat_, {lost.begin(), lost.end()}).size() < lost.size()) return false;
    // Whoever looks for something else meanwhile may index this file again: it is no place to rely on.
    const std::set<std::string> leaving{name_};
    AddOptions add{options_.threads, formats::kDefaultLevel};
    add.replacing = &leaving;
    Adder adder(vat_, add);
    for (const auto& group : groups_) rescue(group, adder);
    for (const auto& pack : adder.finish().packs)
      if (pack + ".zst" == name_) return true;  // it took this one's place: all is there that there was
    impl_.with_index([&](internal::Index& index) { index.forget_pack(name_); });
    impl_.put_aside(file_, name_);
    if (hidden)
      impl_.note("pack " + name_ +
                 ": what can be read of it is stored anew; the rest is in local/quarantine");
    return !hidden;
  }

 private:
  [[nodiscard]] bool is_arriving() const {
    struct stat info;
    return ::fstat(fd_.get(), &info) != 0 || info.st_mtim.tv_sec > std::time(nullptr) - Vat::Impl::kArriving;
  }

  /// Whether what has this file's own name is the same pack.
  [[nodiscard]] bool is_rightly_named(int packs) const {
    const auto other = base::find_regular_at(packs, right_name_);
    return other && base::to_hex(base::sha256_of_file(other->get())) + ".zst" == right_name_;
  }

  void list_groups(std::vector<PackDamage>& damages) {
    const auto read = base::reader_of(fd_.get());
    const auto keep = [this](const GroupPlace& place, const std::vector<PackedBlob>& blobs) {
      groups_.push_back({place, blobs});
    };
    try {
      formats::read_trailer(impl_.format, read, size_, keep);
    } catch (const Error& error) {
      if (!is_bad_bytes(error)) throw;
      groups_.clear();
      const auto end = formats::walk_pack(read, size_, keep);
      // Whether the walk stopped at the trailer or at damage between groups cannot be told unless its frame
      // begins there.
      damages.push_back(
          {{file_, std::nullopt, error.what(), false}, !formats::is_trailer_at(read, end, size_)});
      trailer_lost_ = true;
    }
  }

  Checked check(const Group& group) const {
    Checked checked{std::vector<std::string>(group.blobs.size())};
    try {
      auto decoded = impl_.decode(fd_.get(), group.place);
      formats::name_blobs(impl_.format, decoded);
      for (std::size_t i = 0; i < group.blobs.size(); ++i) {
        if (i >= decoded.blobs.size())
          checked.faults[i] = "group holds fewer blobs than its trailer says";
        else if (decoded.blobs[i].size != group.blobs[i].size || decoded.blobs[i].kind != group.blobs[i].kind)
          checked.faults[i] = "group and trailer disagree";
        else if (!trailer_lost_ && decoded.blobs[i].id != group.blobs[i].id)
          checked.faults[i] = "bytes do not match the id";
      }
    } catch (const Error& error) {
      if (!is_bad_bytes(error)) throw;
      for (auto& fault : checked.faults) fault = error.what();
    }
    return checked;
  }

  void report(const Group& group, const Checked& checked, std::vector<PackDamage>& damages) {
    for (std::size_t i = 0; i < group.blobs.size(); ++i) {
      if (checked.faults[i].empty()) continue;
      const auto where = "group at " + std::to_string(group.place.offset) + ": " + checked.faults[i];
      std::optional<ObjectId> id;
      if (!trailer_lost_) id = group.blobs[i].id;
      damages.push_back({{file_, id, where, false}, !id.has_value()});
      if (id) impl_.mark_damaged(*id, name_);
    }
  }

  /// What the index thinks of files not checked yet proves nothing.
  bool has_other_copy(const ObjectId& id) {
    return impl_.has_proven_copy(id, {name_}, Vat::Impl::Copies::anywhere);
  }

  /// Puts every sound blob of the group that is nowhere else.
  void rescue(const Group& group, Adder& adder) {
    std::optional<formats::DecodedGroup> decoded;
    try {
      decoded = impl_.decode(fd_.get(), group.place);
      formats::name_blobs(impl_.format, *decoded);
    } catch (const Error& error) {
      if (!is_bad_bytes(error)) throw;
      return;
    }
    for (std::size_t i = 0; i < decoded->blobs.size(); ++i) {
      const auto bytes = decoded->blob(i);
      const auto id = decoded->blobs[i].id;
      if (!trailer_lost_ && (i >= group.blobs.size() || id != group.blobs[i].id)) continue;
      if (id == ObjectId() || has_other_copy(id)) continue;
      const auto kind = decoded->blobs[i].kind;
      (void)adder.put(id, kind, kind == BlobKind::data ? Grouping::chunk : Grouping::text, bytes);
    }
  }

  Vat& vat_;
  Vat::Impl& impl_;
  const VerifyOptions& options_;
  base::WorkerPool& pool_;
  const std::string name_, file_;
  base::UniqueFd fd_;
  std::uint64_t size_ = 0;
  std::vector<Group> groups_;
  std::string right_name_;
  bool trailer_lost_ = false;
};

/// Whether everything that texts name can be found.
class References {
 public:
  References(Vat& vat, const VerifyOptions& options, std::unordered_set<ObjectId> told,
             const std::function<void(const Damage&)>& report)
      : vat_(vat), from_(options.repair ? options.from : nullptr), told_(std::move(told)), report_(report) {}

  void check_all() {
    // What is taken may need what is not here either. A content is asked for last: a recipe of it will do.
    for (check_once(); !missing_.empty(); check_once()) {
      const bool only_contents = std::all_of(missing_.begin(), missing_.end(),
                                             [](const auto& entry) { return entry.second.is_content; });
      std::vector<ObjectId> ids;
      for (const auto& [id, missing] : missing_)
        if (only_contents || !missing.is_content) ids.push_back(id);
      const auto taken = take_from(from_, vat_, ids);
      for (const auto& id : ids) {
        report_({"", id, missing_.at(id).why, taken.contains(id)});
        told_.insert(id);
      }
    }
  }

 private:
  struct Missing {
    std::string why;
    bool is_content;
  };

  void check_once() {
    missing_.clear();
    const Reading reading(vat_.impl());
    std::vector<std::pair<ObjectId, BlobKind>> roots;
    vat_.list(
        [&](const ObjectId& id, const StoredBlob& blob) {
          if (blob.kind == BlobKind::recipe || blob.kind == BlobKind::manifest ||
              blob.kind == BlobKind::layout)
            roots.emplace_back(id, blob.kind);
        },
        [](const ObjectId&, const RecipeClaim&) {});
    for (const auto& [id, kind] : roots) {
      try {
        check(id, kind);
      } catch (const Error& error) {
        const bool told = error.category() == Category::corrupt;  // its own pack was reported
        if (!told && error.category() != Category::refused && error.category() != Category::not_found) throw;
        if (!told && told_.insert(id).second)
          report_({"", id, std::string(formats::to_string(kind)) + ": " + error.what(), false});
      }
    }
  }

  void check(const ObjectId& root, BlobKind kind) {
    const auto get = [this](const ObjectId& id) { return vat_.read(id); };
    if (kind == BlobKind::recipe) {
      formats::RecipeReader reader(vat_.read(root), vat_.object_format(), get);
      for (formats::RecipeItem item; reader.next(item);)
        if (item.type != formats::RecipeItem::Type::hole) need(item.id, root, kind, false);
    } else if (kind == BlobKind::manifest) {
      formats::ManifestReader reader(vat_.read(root), vat_.object_format(), get);
      const auto before = missing_.size();
      for (formats::Row row; reader.next(row);)
        if (row.type == formats::Row::Type::file) need(row.blob, root, kind, true);
      if (missing_.size() == before || from_ == nullptr) return;
      // Nothing but its map says here which layout belongs to a manifest.
      if (const auto layout = layout_of(root)) need(*layout, root, kind, false);
    } else {
      formats::LayoutReader reader(vat_.read(root), vat_.object_format(), get);
      for (ObjectId blob, recipe; reader.next(blob, recipe);) need(recipe, root, kind, false);
    }
  }

  void need(const ObjectId& id, const ObjectId& root, BlobKind kind, bool is_content) {
    if (told_.contains(id) || missing_.contains(id) || vat_.find(id) ||
        (is_content && !vat_.find_recipes(id).empty()))
      return;
    missing_.try_emplace(
        id, Missing{"missing, needed by " + std::string(formats::to_string(kind)) + " " + root.hex(),
                    is_content});
  }

  std::optional<ObjectId> layout_of(const ObjectId& manifest) {
    try {
      const auto bytes =
          base::read_file(vat_.impl().dir.get(), internal::map_file(manifest), internal::kMaxMapFile);
      return internal::RootMap(base::as_bytes(bytes), vat_.object_format(), manifest).detail();
    } catch (const Error&) {
      return std::nullopt;  // maps are hints
    }
  }

  Vat& vat_;
  BlobSource* const from_;
  std::unordered_set<ObjectId> told_;    ///< reported already
  std::map<ObjectId, Missing> missing_;  ///< found by check_once()
  const std::function<void(const Damage&)>& report_;
};

/// Whether some copy is good now, whatever the index thinks.
bool can_be_read(Vat& vat, const ObjectId& id) {
  try {
    vat.stream(id, [](base::Bytes) {});
    return true;
  } catch (const Error& error) {
    if (!is_bad_bytes(error) && error.category() != Category::not_found) throw;
    return false;
  }
}

void check_loose_files(Vat& vat, const VerifyOptions& options, VerifySummary& summary,
                       const std::function<void(const Damage&)>& report) {
  auto& impl = vat.impl();
  for (const auto& file : impl.all_loose_files()) {
    ++summary.loose_files;
    if (options.quick || impl.read_loose(file, {})) continue;
    Damage damage{file.path(), file.id, "does not match its name", false};
    impl.with_index([&](internal::Index& index) {
      index.put_loose(file.id, {std::string(formats::suffix_of(file.codec)), 0, 0, 0, false});
    });
    if (options.repair && (can_be_read(vat, file.id) || !take_from(options.from, vat, {file.id}).empty())) {
      impl.put_aside(file.path(), file.id.hex() + ".blob" + std::string(formats::suffix_of(file.codec)));
      damage.repaired = true;
    }
    report(damage);
  }
}

}  // namespace

VerifySummary verify(Vat& vat, const VerifyOptions& options,
                     const std::function<void(const Damage&)>& on_damage) {
  VerifySummary summary;
  std::unordered_set<ObjectId> told;
  const std::function<void(const Damage&)> report = [&](const Damage& damage) {
    if (damage.id) told.insert(*damage.id);
    ++summary.damaged;
    if (damage.repaired) ++summary.repaired;
    on_damage(damage);
  };
  auto& impl = vat.impl();
  std::optional<base::UniqueFd> lock;
  if (options.repair) lock = impl.lock_removal();
  base::WorkerPool pool(options.threads != 0 ? options.threads
                                             : std::max(1U, std::thread::hardware_concurrency()));
  check_loose_files(vat, options, summary, report);
  const auto packs = base::find_open_at(impl.dir.get(), Vat::Impl::kPackDir, O_RDONLY | O_DIRECTORY);
  if (packs) {
    const auto names = base::list_directory(packs->get());
    for (auto name = names.begin(); name != names.end();) {
      if (!Vat::Impl::is_pack_name(*name)) {
        ++name;
        continue;
      }
      std::vector<PackDamage> damages;
      PackCheck check(vat, options, pool, *name);
      check.run(damages, summary, options.progress);
      auto renamed = PackCheck::Renamed::no;
      if (options.repair && check.is_misnamed()) renamed = check.rename();
      bool repaired = renamed != PackCheck::Renamed::no;
      if (options.repair && !repaired && !damages.empty()) repaired = check.repair(damages);
      if (renamed != PackCheck::Renamed::exchanged) {
        ++summary.packs;
        ++name;
      }
      for (auto& damage : damages) {
        damage.repaired = repaired;
        report(damage);
      }
    }
  }
  if (!options.quick)
    check_cache(vat, options.repair, [&](const std::string& file, const std::string& why, bool repaired) {
      report({file, std::nullopt, why, repaired});
    });
  if (!options.quick) References(vat, options, told, report).check_all();
  return summary;
}

void verify_content(Vat& vat, const ObjectId& id) {
  const auto content = find_content(vat, id);
  std::uint64_t size = 0;
  base::ObjectHasher hasher(vat.object_format());
  hasher.reset(content.size);
  stream_content(vat, id, {}, [&](base::Bytes bytes) {
    size += bytes.size();
    hasher.update(bytes);
  });
  if (size != content.size || hasher.finish() != id)
    throw Error(Category::corrupt, "content " + id.hex() + ": other bytes");
}

}  // namespace vat
