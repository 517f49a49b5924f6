#include "vat/internal/delta_maker.h"

#include <algorithm>
#include <set>
#include <utility>

#include "formats/base/endian.h"
#include "formats/text/layout.h"
#include "formats/text/recipe.h"
#include "vat/maps.h"

namespace vat::internal {

using base::ObjectId;
using formats::MapSection;
using formats::RecipeItem;
using formats::Row;

namespace {

constexpr std::size_t kGroupSize = std::size_t{4} << 20;  ///< content bytes of a group
constexpr std::uint64_t kNear = std::uint64_t{2}
                                << 20;  ///< bytes before and after an offset that may be alike
constexpr std::uint64_t kNearText = std::uint64_t{8} << 20;

std::uint64_t key_of(const ObjectId& id) {
  return base::load_le<std::uint64_t>(id.raw().data());
}

}  // namespace

void IdSet::add(const ObjectId& id) {
  keys_.push_back(key_of(id));
}
void IdSet::finish() {
  std::sort(keys_.begin(), keys_.end());
}
bool IdSet::has(const ObjectId& id) const {
  return std::binary_search(keys_.begin(), keys_.end(), key_of(id));
}

DeltaMaker::DeltaMaker(Vat& vat, std::optional<Root> from, const Root& to, int level,
                       std::function<void(std::uint64_t)> progress)
    : vat_(vat), from_(std::move(from)), to_(to), level_(level), progress_(std::move(progress)) {
  if (from_) learn_old();
}

DeltaMaker::Written DeltaMaker::write(Part part, const std::function<bool(std::uint64_t)>& is_wanted,
                                      const base::ByteSink& sink) {
  written_ = {};
  offset_ = met_ = 0;
  writer_.emplace(
      vat_.object_format(),
      formats::DeltaHead{from_ ? from_->id() : to_.id(), to_.id(), part == Part::all ? missing_size() : 0},
      level_, sink);
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
  Walk walk;
  walk.read = getter();
  walk.visit = [&, number = std::uint64_t{0}](const Met& met) mutable {
    const bool is_data = met.section == MapSection::data;
    if (part == Part::all || (part == Part::data) == is_data)
      add(met, is_data && is_wanted ? is_wanted(number) : !old_ids_.has(met.id));
    if (is_data) ++number;
  };
  walk_root(vat_.object_format(), expected, walk);
  flush(data_);
  written_.stored_size = writer_->size();
  return written_;
}

formats::GetText DeltaMaker::getter() {
  return [this](const ObjectId& id) { return vat_.read(id); };
}

void DeltaMaker::learn_old() {
  Walk walk;
  walk.read = getter();
  walk.visit = [&](const Met& met) {
    old_ids_.add(met.id);
    if (met.section != MapSection::data && met.section != MapSection::recipes)
      old_texts_.push_back({met.id, 0, 0});
  };
  walk_root(vat_.object_format(), {*from_, {}, {}, true}, walk);
  old_ids_.finish();
  if (from_->layout) {
    formats::LayoutReader reader(vat_.read(*from_->layout), vat_.object_format(), getter());
    for (ObjectId blob, recipe; reader.next(blob, recipe);) old_recipes_.emplace(blob, recipe);
  }
  if (from_->manifest) compare_rows();
  if (from_->recipe) old_recipes_.emplace(from_->blob.value_or(ObjectId()), *from_->recipe);
}

/// Bytes of the groups that hold something new.
std::uint64_t DeltaMaker::missing_size() {
  std::set<std::pair<std::string, std::uint64_t>> groups;
  std::uint64_t size = 0;
  Walk walk;
  walk.read = getter();
  walk.visit = [&](const Met& met) {
    if (old_ids_.has(met.id)) return;
    const auto place = find_place(vat_, met.id);
    if (place && groups.emplace(place->pack, place->group.offset).second) size += place->group.size;
  };
  walk_root(vat_.object_format(), {to_, {}, {}, true}, walk);
  return size;
}

/// Remembers the files of the old tree that the new one has not, or has with other content.
void DeltaMaker::compare_rows() {
  formats::ManifestReader before(vat_.read(*from_->manifest), vat_.object_format(), getter());
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
const DeltaMaker::OldFile* DeltaMaker::find_old(const std::string& path) const {
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
void DeltaMaker::begin_file(const Row* row) {
  offset_ = 0;
  old_pieces_.clear();
  std::optional<OldFile> old;
  if (row == nullptr) {
    if (from_ && (from_->recipe || from_->blob)) old = OldFile{from_->blob.value_or(ObjectId()), 0};
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

void DeltaMaker::add(const Met& met, bool is_new) {
  const auto begin = offset_;
  if (met.section == MapSection::data) {
    offset_ += met.size;
    if (progress_) progress_(met_ += met.size);
  }
  if (!is_new || !done_.insert(met.id).second) return;
  const bool is_data = met.section == MapSection::data;
  auto& group = is_data ? data_ : texts_;
  const auto bytes = vat_.read(met.id);
  if (!group.blobs.empty() && group.content.size() + bytes.size() > kGroupSize) flush(group);
  group.blobs.push_back({met.id, static_cast<std::uint32_t>(bytes.size()), met.kind});
  base::append(group.content, bytes);
  ++written_.blobs;
  written_.size += bytes.size();
  if (is_data)
    refer(group, begin, begin + bytes.size());
  else
    for (const auto& text : old_texts_) refer(group, text, kNearText);
  if (group.blobs.size() == formats::kMaxGroupBlobs) flush(group);
}

void DeltaMaker::refer(Group& group, std::uint64_t begin, std::uint64_t end) {
  const auto from = begin > kNear ? begin - kNear : 0;
  auto piece = std::partition_point(old_pieces_.begin(), old_pieces_.end(),
                                    [&](const OldPiece& old) { return old.offset + old.size <= from; });
  for (; piece != old_pieces_.end() && piece->offset < end + kNear; ++piece)
    refer(group, *piece, formats::kMaxDeltaPrefix);
}

void DeltaMaker::refer(Group& group, const OldPiece& piece, std::uint64_t limit) {
  const auto known = [&](const OldPiece& other) { return other.id == piece.id; };
  if (group.prefix_size + piece.size > limit || group.prefix.size() == formats::kMaxPrefixBlobs ||
      std::any_of(group.prefix.rbegin(), group.prefix.rend(), known))
    return;
  group.prefix.push_back(piece);
  group.prefix_size += piece.size;
}

void DeltaMaker::flush(Group& group) {
  if (&group == &data_) flush(texts_);  // what names the data comes before it
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

}  // namespace vat::internal
