#include "vat/internal/blob_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "formats/text/recipe.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/vat_impl.h"
#include "vat/maps.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;

constexpr std::uint64_t kPackSize = std::uint64_t{32} << 20;   ///< bytes after which a pack is published
constexpr std::size_t kRecent = std::size_t{32} << 20;         ///< decoded groups kept, content bytes
constexpr std::uint64_t kWorthAPack = std::uint64_t{4} << 20;  ///< bytes that others need not fetch again
constexpr std::uint64_t kInUse = std::uint64_t{256}
                                 << 20;  ///< bytes that stay as long as somebody may be about to read them
constexpr const char* kPins = "pins";    ///< in local/: a file a root, with the packs that hold it
constexpr std::size_t kMaxPin = std::size_t{64} << 20;
constexpr const char* kTurns = "local/turns";
constexpr const char* kUsed = "used";  ///< in local/: one empty file a pack, its time the last use

}  // namespace

BlobCache::BlobCache(base::ObjectFormat format, CacheOptions options)
    : format_(format), options_(std::move(options)), recent_(kRecent) {
  if (options_.directory.empty()) return;
  const auto path = options_.directory + "/fetched-" + std::string(base::to_string(format)) + ".vat";
  try {
    Vat::create(path, format, chunker::make_parameters(16));
    vat_ = Vat::open(path, {options_.directory, options_.on_note});
    salvage();
    turns_.emplace(base::open_at(vat_->impl().dir.get(), kTurns, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  } catch (const Error& error) {
    if (error.category() == Category::internal) throw;
    vat_.reset();
    if (options_.on_note)
      options_.on_note(std::string("nothing is kept of what is fetched: ") + error.what());
  }
}

BlobCache::~BlobCache() {
  try {
    publish();
    mark_used();
    evict(options_.budget);
  } catch (const Error& error) {
    if (options_.on_note) options_.on_note(std::string("cache: ") + error.what());
  } catch (const std::exception&) {  // it is only a cache
  }
}

void BlobCache::keep(FetchedGroup group) {
  const std::lock_guard lock(mutex_);
  (void)recent_.find_or({0, static_cast<std::uint64_t>(++last_group_)}, [&] { return group.content; });
  if (vat_ == nullptr) return;
  if (current_ == nullptr) current_ = std::make_shared<Pending>(vat_->impl());
  const auto& content = *group.content;
  const auto place = current_->file.append({std::move(group.bytes), content.blobs});
  for (std::uint32_t i = 0; i < content.blobs.size(); ++i) {
    const auto& blob = content.blobs[i];
    unpublished_.insert_or_assign(blob.id, Unpublished{current_, place, i, {blob.size, blob.kind}});
    current_->ids.push_back(blob.id);
    if (blob.kind != formats::BlobKind::recipe) continue;
    const auto header = formats::find_recipe_header(content.blob(i), format_);
    if (header && header->blob) current_->claims.push_back({*header->blob, blob.id, header->size, false});
  }
  if (current_->file.size() >= kPackSize) publish_in_background_locked();
}

void BlobCache::publish_in_background_locked() {
  if (current_ == nullptr) return;
  publishing_.push_back(
      publisher_.submit([this, pack = std::exchange(current_, nullptr)] { publish(pack); }));
}

void BlobCache::publish(const std::shared_ptr<Pending>& pack) {
  (void)pack->file.publish(pack->claims);
  const std::lock_guard lock(mutex_);
  for (const auto& id : pack->ids)
    if (const auto known = unpublished_.find(id); known != unpublished_.end() && known->second.pack == pack)
      unpublished_.erase(known);
  mark_used();
  evict(std::max(options_.budget, kInUse));
}

void BlobCache::publish() {
  std::vector<std::future<void>> running;
  {
    const std::lock_guard lock(mutex_);
    publish_in_background_locked();
    running.swap(publishing_);
  }
  for (auto& one : running) one.get();
}

void BlobCache::pin(const ObjectId& root, const std::vector<ObjectId>& blobs) {
  if (vat_ == nullptr) throw Error(Category::local, "nothing can be pinned: there is no cache directory");
  publish();
  std::set<std::string> packs;
  {
    const Reading reading(vat_->impl());
    for (const auto& id : blobs)
      if (const auto place = find_place(*vat_, id)) packs.insert(place->pack);
  }
  std::string text;
  for (const auto& pack : packs) text += pack + "\n";
  const auto pins = open_own(vat_->impl().dir.get(), kLocal, kPins);
  base::AtomicFile file(pins.get());
  file.write(base::as_bytes(text));
  (void)file.publish(pins.get(), root.hex(), base::AtomicFile::Existing::replace);
}

void BlobCache::unpin(const ObjectId& root) {
  if (vat_ != nullptr)
    (void)::unlinkat(vat_->impl().dir.get(), (std::string("local/") + kPins + "/" + root.hex()).c_str(), 0);
}

std::set<std::string> BlobCache::pinned_packs() const {
  std::set<std::string> packs;
  const auto pins =
      base::find_open_at(vat_->impl().dir.get(), std::string("local/") + kPins, O_RDONLY | O_DIRECTORY);
  if (!pins) return packs;
  for (const auto& name : base::list_directory(pins->get())) {
    const auto text = base::read_file(pins->get(), name, kMaxPin);
    for (std::string_view rest = text; !rest.empty();)
      packs.insert(std::string(base::take_field(rest, '\n')) + ".zst");
  }
  return packs;
}

void BlobCache::take_turn(const ObjectId& root, const std::function<bool()>& is_over) {
  if (turns_)
    turns_->take(
        root, [this] { return size_in_work(); }, is_over);
}

void BlobCache::end_turns() {
  if (!turns_) return;
  bool is_large = false;
  {
    const std::lock_guard lock(mutex_);
    is_large = current_ != nullptr && current_->file.size() >= kWorthAPack;
  }
  if (is_large || turns_->is_awaited()) publish();
  turns_->release();
}

/// Changes whenever some process has got something.
std::uint64_t BlobCache::size_in_work() const {
  std::uint64_t size = 0;
  for (const auto* directory : {"tmp", Vat::Impl::kPackDir}) {
    const auto opened = base::find_open_at(vat_->impl().dir.get(), directory, O_RDONLY | O_DIRECTORY);
    if (!opened) continue;
    for (const auto& name : base::list_directory(opened->get())) {
      struct stat info {};
      if (::fstatat(opened->get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0)
        size += static_cast<std::uint64_t>(info.st_size);
    }
  }
  return size;
}

std::optional<ProvenBlob> BlobCache::find_fresh(const ObjectId& id) {
  if (auto blob = recent_.find(id)) return blob;
  Unpublished there;
  {
    const std::lock_guard lock(mutex_);
    const auto known = unpublished_.find(id);
    if (known == unpublished_.end()) return std::nullopt;
    there = known->second;
  }
  try {
    const auto number = -1 - reinterpret_cast<std::intptr_t>(there.pack.get());  // no key of keep()
    auto group = recent_.find_or({number, there.place.offset}, [&] {
      auto decoded =
          std::make_shared<formats::DecodedGroup>(vat_->impl().decode(there.pack->file.fd(), there.place));
      formats::name_blobs(format_, *decoded);
      return decoded;
    });
    if (there.position < group->blobs.size() && group->blobs[there.position].id == id)
      return ProvenBlob{std::move(group), there.position};
  } catch (const Error& error) {
    // Published meanwhile, or the disk fails: then it is looked for elsewhere.
    if (error.category() == Category::internal) throw;
  }
  return std::nullopt;
}

std::optional<StoredBlob> BlobCache::find(const ObjectId& id) {
  if (const auto blob = recent_.find(id))
    return StoredBlob{blob->bytes().size(), blob->group->blobs[blob->position].kind};
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = unpublished_.find(id); known != unpublished_.end()) return known->second.blob;
  }
  return vat_ != nullptr ? vat_->find(id) : std::nullopt;
}

base::Buffer BlobCache::read(const ObjectId& id) {
  base::Buffer bytes;
  stream(id, [&](base::Bytes part) { base::append(bytes, part); });
  return bytes;
}

void BlobCache::stream(const ObjectId& id, const base::ByteSink& sink) {
  if (const auto blob = find_fresh(id)) return sink(blob->bytes());
  if (vat_ == nullptr) throw Error(Category::not_found, "blob " + id.hex() + ": not in the cache");
  vat_->stream(id, sink);
}

std::vector<RecipeClaim> BlobCache::find_recipes(const ObjectId& id) {
  std::vector<RecipeClaim> found;
  if (vat_ == nullptr) return found;
  found = vat_->find_recipes(id);
  const std::lock_guard lock(mutex_);
  if (current_ != nullptr)
    for (const auto& claim : current_->claims)
      if (claim.content == id) found.push_back({claim.recipe, claim.size, false});
  return found;
}

void BlobCache::note_proven(const ObjectId& content, const ObjectId& recipe, std::uint64_t size) {
  if (vat_ != nullptr) vat_->note_proven(content, recipe, size);
}

/// Takes over the groups of packs whose writer is gone.
void BlobCache::salvage() {
  auto& impl = vat_->impl();
  const int tmp = impl.open_tmp();
  for (const auto& name : base::list_directory(tmp)) {
    const auto file = base::find_regular_at(tmp, name);
    if (!file || ::flock(file->get(), LOCK_EX | LOCK_NB) != 0) continue;
    (void)formats::walk_pack(
        base::reader_of(file->get()), base::file_size(file->get()),
        [&](const formats::GroupPlace& place, const auto&) {
          try {
            auto bytes = impl.read_group(file->get(), place);
            formats::ZstdDecompressor decompressor;
            auto content =
                std::make_shared<formats::DecodedGroup>(formats::decode_group(bytes, decompressor));
            formats::name_blobs(format_, *content);
            if (!find(content->blobs.front().id)) keep({std::move(bytes), content});
          } catch (const Error& error) {
            if (error.category() != Category::corrupt && error.category() != Category::refused) throw;
          }
        });
    (void)::unlinkat(tmp, name.c_str(), 0);
  }
}

void BlobCache::mark_used() {
  if (vat_ == nullptr) return;
  auto& impl = vat_->impl();
  const auto used = open_own(impl.dir.get(), kLocal, kUsed);
  for (const auto& name : impl.packs_read()) {
    const auto mark = base::open_at(used.get(), name, O_WRONLY | O_CREAT | O_NOFOLLOW, 0600);
    (void)::futimens(mark.get(), nullptr);
  }
}

/// Packs that were used least lately go until the rest is within the budget.
void BlobCache::evict(std::uint64_t budget) {
  if (vat_ == nullptr || is_held_) return;
  auto& impl = vat_->impl();
  struct Candidate {
    timespec used;
    PackRecord pack;
  };
  std::vector<Candidate> packs;
  std::uint64_t total = 0;
  for (auto& pack : impl.with_index([](Index& index) { return index.packs(); })) {
    struct stat info;
    const auto mark = std::string("local/") + kUsed + "/" + pack.name;
    timespec used{pack.mtime / 1'000'000'000, pack.mtime % 1'000'000'000};
    if (::fstatat(impl.dir.get(), mark.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) used = info.st_mtim;
    total += pack.size;
    packs.push_back({used, std::move(pack)});
  }
  if (total <= budget) return;
  std::sort(packs.begin(), packs.end(), [](const Candidate& a, const Candidate& b) {
    return std::pair(a.used.tv_sec, a.used.tv_nsec) < std::pair(b.used.tv_sec, b.used.tv_nsec);
  });
  const auto pinned = pinned_packs();
  const auto lock = impl.lock_removal();
  for (const auto& [used, pack] : packs) {
    if (total <= budget) break;
    if (pinned.contains(pack.name)) continue;
    total -= pack.size;
    (void)::unlinkat(impl.dir.get(), (std::string(Vat::Impl::kPackDir) + "/" + pack.name).c_str(), 0);
    (void)::unlinkat(impl.dir.get(), (std::string("local/") + kUsed + "/" + pack.name).c_str(), 0);
    impl.with_index([&, &name = pack.name](Index& index) { index.forget_pack(name); });
  }
}

}  // namespace vat::internal
