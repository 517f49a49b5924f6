#include "vat/delta.h"

#include <fcntl.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "formats/base/atomic_file.h"
#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/delta/delta.h"
#include "formats/text/layout.h"
#include "formats/text/manifest.h"
#include "formats/text/recipe.h"
#include "vat/internal/plan.h"
#include "vat/internal/vat_impl.h"
#include "vat/maps.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::BlobKind;
using formats::MapSection;
using formats::RecipeItem;
using formats::Row;
using internal::Met;

constexpr std::size_t kGroupSize = std::size_t{4} << 20;  ///< content bytes of a group
constexpr std::uint64_t kNear = std::uint64_t{2}
                                << 20;  ///< bytes before and after an offset that may be alike
constexpr std::uint64_t kNearText = std::uint64_t{8} << 20;

/// Ids, eight bytes each: one taken for another costs whoever uses the delta a request.
class IdSet {
 public:
  void add(const ObjectId& id) { keys_.push_back(key(id)); }
  void finish() { std::sort(keys_.begin(), keys_.end()); }
  [[nodiscard]] bool has(const ObjectId& id) const {
    return std::binary_search(keys_.begin(), keys_.end(), key(id));
  }

 private:
  static std::uint64_t key(const ObjectId& id) { return base::load_le<std::uint64_t>(id.raw().data()); }
  std::vector<std::uint64_t> keys_;
};

struct OldFile {
  ObjectId blob;
  std::uint64_t size = 0;
};

/// A piece of the old root that something new may be like.
struct OldPiece {
  ObjectId id;
  std::uint64_t offset = 0, size = 0;
};

class DeltaMaker {
 public:
  DeltaMaker(Vat& vat, const Root& from, const Root& to, const DeltaOptions& options,
             const base::ByteSink& sink)
      : vat_(vat), from_(from), to_(to), options_(options), sink_(sink) {}

  DeltaSummary run() {
    learn_old();
    writer_.emplace(vat_.object_format(), formats::DeltaHead{from_.id(), to_.id(), missing_size()},
                    options_.level, sink_);
    Row row;
    Expected expected{to_,
                      [&](const Row& next) {
                        row = next;
                        begin_file(&row);
                        return true;
                      },
                      {},
                      true};
    if (!to_.manifest) begin_file(nullptr);
    internal::Walk walk;
    walk.read = [&](const ObjectId& id) { return vat_.read(id); };
    walk.visit = [&](const Met& met) { add(met); };
    internal::walk_root(vat_.object_format(), expected, walk);
    for (auto* group : {&texts_, &data_}) flush(*group);
    summary_.stored_size = writer_->size();
    return summary_;
  }

 private:
  struct Group {
    std::vector<formats::PackedBlob> blobs;
    base::Buffer content;
    std::vector<OldPiece> prefix;
    std::uint64_t prefix_size = 0;
  };

  [[nodiscard]] formats::GetText getter() {
    return [this](const ObjectId& id) { return vat_.read(id); };
  }

  void learn_old() {
    internal::Walk walk;
    walk.read = getter();
    walk.visit = [&](const Met& met) {
      old_ids_.add(met.id);
      if (met.section != MapSection::data && met.section != MapSection::recipes)
        old_texts_.push_back({met.id, 0, 0});
    };
    internal::walk_root(vat_.object_format(), {from_, {}, {}, true}, walk);
    old_ids_.finish();
    if (from_.layout) {
      formats::LayoutReader reader(vat_.read(*from_.layout), vat_.object_format(), getter());
      for (ObjectId blob, recipe; reader.next(blob, recipe);) old_recipes_.emplace(blob, recipe);
    }
    if (from_.manifest) compare_rows();
    if (from_.recipe) old_recipes_.emplace(from_.blob.value_or(ObjectId()), *from_.recipe);
  }

  /// Bytes of the groups that hold something new.
  [[nodiscard]] std::uint64_t missing_size() {
    std::set<std::pair<std::string, std::uint64_t>> groups;
    std::uint64_t size = 0;
    internal::Walk walk;
    walk.read = getter();
    walk.visit = [&](const Met& met) {
      if (old_ids_.has(met.id)) return;
      const auto place = find_place(vat_, met.id);
      if (place && groups.emplace(place->pack, place->group.offset).second) size += place->group.size;
    };
    internal::walk_root(vat_.object_format(), {to_, {}, {}, true}, walk);
    return size;
  }

  /// Remembers the files of the old tree that the new one has not, or has with other content.
  void compare_rows() {
    formats::ManifestReader before(vat_.read(*from_.manifest), vat_.object_format(), getter());
    formats::ManifestReader after(vat_.read(*to_.manifest), vat_.object_format(), getter());
    Row old, fresh;
    bool have_fresh = after.next(fresh);
    while (before.next(old)) {
      while (have_fresh && formats::compare_paths(fresh.path, old.path) < 0) have_fresh = after.next(fresh);
      if (old.type != Row::Type::file || old.size == 0) continue;
      const bool same =
          have_fresh && fresh.path == old.path && fresh.type == Row::Type::file && fresh.blob == old.blob;
      if (same) continue;
      const auto [directory, name] = formats::split_path(old.path);
      old_files_[directory].emplace(name, OldFile{old.blob, old.size});
    }
  }

  /// The old file whose content the new one's may be like.
  [[nodiscard]] const OldFile* find_old(const std::string& path) const {
    const auto [directory, name] = formats::split_path(path);
    const auto files = old_files_.find(directory);
    if (files == old_files_.end()) return nullptr;
    if (const auto same = files->second.find(name); same != files->second.end()) return &same->second;
    // The longest common beginning, then the longest common end: libx.so.1.2.3 and libx.so.1.2.4.
    const auto common = [&, &wanted = name](const std::string& other) {
      const auto begin =
          std::mismatch(wanted.begin(), wanted.end(), other.begin(), other.end()).first - wanted.begin();
      const auto end =
          std::mismatch(wanted.rbegin(), wanted.rend(), other.rbegin(), other.rend()).first - wanted.rbegin();
      return std::pair(begin, end);
    };
    const OldFile* best = nullptr;
    std::pair<std::ptrdiff_t, std::ptrdiff_t> longest{0, 0};
    for (const auto& [other, file] : files->second) {
      const auto length = common(other);
      if (length.first + length.second < 3 || (best != nullptr && length <= longest)) continue;
      longest = length;
      best = &file;
    }
    return best;
  }

  /// What follows is of that file, or of the one file there is.
  void begin_file(const Row* row) {
    offset_ = 0;
    old_pieces_.clear();
    std::optional<OldFile> old;
    if (row == nullptr) {
      if (from_.recipe || from_.blob) old = OldFile{from_.blob.value_or(ObjectId()), 0};
    } else if (const auto* found = find_old(row->path)) {
      old = *found;
    }
    if (!old) return;
    const auto recipe = old_recipes_.find(old->blob);
    if (recipe == old_recipes_.end()) {
      old_pieces_.push_back({old->blob, 0, old->size});
      return;
    }
    formats::RecipeReader reader(vat_.read(recipe->second), vat_.object_format(), getter());
    for (RecipeItem item; reader.next(item);)
      if (item.type == RecipeItem::Type::chunk)
        old_pieces_.push_back({item.id, reader.offset() - item.size, item.size});
  }

  void add(const Met& met) {
    const auto begin = offset_;
    if (met.section == MapSection::data) {
      offset_ += met.size;
      if (options_.progress) options_.progress(met_ += met.size);
    }
    if (old_ids_.has(met.id) || !done_.emplace(met.id, true).second) return;
    const bool is_data = met.section == MapSection::data;
    auto& group = is_data ? data_ : texts_;
    const auto bytes = vat_.read(met.id);
    if (!group.blobs.empty() && group.content.size() + bytes.size() > kGroupSize) flush(group);
    group.blobs.push_back({met.id, static_cast<std::uint32_t>(bytes.size()), met.kind});
    base::append(group.content, bytes);
    ++summary_.blobs;
    summary_.size += bytes.size();
    if (is_data)
      refer(group, begin, begin + bytes.size());
    else
      for (const auto& text : old_texts_) refer(group, text, kNearText);
    if (group.blobs.size() == formats::kMaxGroupBlobs) flush(group);
  }

  void refer(Group& group, std::uint64_t begin, std::uint64_t end) {
    const auto from = begin > kNear ? begin - kNear : 0;
    auto piece = std::partition_point(old_pieces_.begin(), old_pieces_.end(),
                                      [&](const OldPiece& old) { return old.offset + old.size <= from; });
    for (; piece != old_pieces_.end() && piece->offset < end + kNear; ++piece)
      refer(group, *piece, formats::kMaxDeltaPrefix);
  }
  static void refer(Group& group, const OldPiece& piece, std::uint64_t limit) {
    const auto known = [&](const OldPiece& other) { return other.id == piece.id; };
    if (group.prefix_size + piece.size > limit || group.prefix.size() == formats::kMaxPrefixBlobs ||
        std::any_of(group.prefix.rbegin(), group.prefix.rend(), known))
      return;
    group.prefix.push_back(piece);
    group.prefix_size += piece.size;
  }

  void flush(Group& group) {
    if (group.blobs.empty()) return;
    std::vector<ObjectId> ids;
    base::Buffer prefix;
    for (const auto& piece : group.prefix) {
      const auto bytes = vat_.read(piece.id);
      if (prefix.size() + bytes.size() > formats::kMaxDeltaPrefix) continue;
      ids.push_back(piece.id);
      base::append(prefix, bytes);
    }
    writer_->add(ids, prefix, std::move(group.blobs), group.content);
    group = {};
  }

  Vat& vat_;
  const Root &from_, &to_;
  const DeltaOptions& options_;
  const base::ByteSink& sink_;
  std::optional<formats::DeltaWriter> writer_;
  DeltaSummary summary_;
  IdSet old_ids_;
  std::vector<OldPiece> old_texts_;
  std::map<ObjectId, ObjectId> old_recipes_;
  std::map<std::string, std::map<std::string, OldFile>> old_files_;  ///< by directory and name
  std::map<ObjectId, bool> done_;
  std::vector<OldPiece> old_pieces_;  ///< of the file that new data may be like, in the order of offsets
  std::uint64_t offset_ = 0, met_ = 0;
  Group texts_, data_;
};

}  // namespace

std::string delta_file(const ObjectId& from, const ObjectId& to) {
  const auto hex = to.hex();
  return "cache/delta/" + hex.substr(0, 2) + "/" + hex.substr(2) + "-" + from.hex() + ".delta";
}

DeltaSummary make_delta(Vat& vat, const Root& from, const Root& to, const DeltaOptions& options) {
  if (from.manifest.has_value() != to.manifest.has_value())
    throw Error(Category::usage, "a delta leads from a tree to a tree, or from a file or image to one");
  if (from.id() == to.id())
    throw Error(Category::usage, "both are the same root: there is nothing to be said");
  const auto file = delta_file(from.id(), to.id());
  const auto slash = file.rfind('/');
  DeltaSummary summary;
  if (options.dry_run) {
    summary = DeltaMaker(vat, from, to, options, [](base::Bytes) {}).run();
  } else {
    base::make_directories(vat.path() + "/" + file.substr(0, slash));
    const auto directory = base::open_directory(vat.impl().dir.get(), file.substr(0, slash));
    base::remove_leftovers(directory.get());
    base::AtomicFile written(directory.get());
    summary = DeltaMaker(vat, from, to, options, [&](base::Bytes bytes) { written.write(bytes); }).run();
    (void)written.publish(directory.get(), file.substr(slash + 1), base::AtomicFile::Existing::replace);
    rewrite_map(vat, to);
  }
  summary.file = file;
  return summary;
}

}  // namespace vat
