#include "vat/adder.h"

#include <array>
#include <ctime>
#include <deque>
#include <unordered_set>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/worker_pool.h"
#include "vat/internal/condemned.h"
#include "vat/internal/pack_file.h"
#include "vat/internal/vat_impl.h"
#include "vat/lease.h"

namespace vat {
namespace {

using base::ObjectId;
using formats::BlobKind;

/// Content bytes at which a group is closed; docs/performance.md has what was measured.
constexpr std::array<std::size_t, 4> kGroupGoal = {std::size_t{1} << 20, std::size_t{512} << 10,
                                                   std::size_t{256} << 10, 0};

/// Blobs after which the next pack is begun: what is kept of them until then takes 200 bytes each.
constexpr std::size_t kPackBlobs = std::size_t{1} << 17;
static_assert(kPackBlobs + formats::kMaxGroupBlobs <= formats::kMaxPackBlobs);

}  // namespace

class Adder::Impl {
 public:
  Impl(Vat& vat, const AddOptions& options)
      : face_(vat),
        vat_(vat.impl()),
        level_(options.level),
        pack_size_(options.pack_size),
        dry_run_(options.dry_run),
        is_replacing_(options.replacing != nullptr),
        threads_(options.threads != 0 ? options.threads : std::max(1U, std::thread::hardware_concurrency())),
        hasher_(vat_.format),
        pool_(threads_) {
    // Taken before the marks are read: what is condemned later stays as long as it is held.
    if (!dry_run_ && !is_replacing_) lease_.emplace(vat, true);
    for (const auto& [pack, mark] : internal::read_marks(vat_.dir.get(), std::time(nullptr)))
      avoided_.insert(pack);
    if (is_replacing_) avoided_.insert(options.replacing->begin(), options.replacing->end());
    if (dry_run_) return;
    base::remove_leftovers(vat_.open_tmp());
  }

  [[nodiscard]] Vat& vat() const noexcept { return face_; }

  [[nodiscard]] bool avoids_packs() const noexcept { return !avoided_.empty(); }
  [[nodiscard]] bool has(const ObjectId& id) const {
    const auto found = vat_.find(id);
    return found && (avoided_.empty() || vat_.known_good(id, found->size, &avoided_));
  }

  bool put(const ObjectId& id, BlobKind kind, Grouping grouping, base::Bytes content) {
    if (content.size() > formats::kMaxPackedBlob)
      throw base::Error(base::Category::internal, "blob too large for a pack");
    if (is_there(id, content.size())) return false;
    seen_.insert(id);
    Group& group = open_[static_cast<std::size_t>(grouping)];
    const std::size_t goal = kGroupGoal[static_cast<std::size_t>(grouping)];
    if (!group.blobs.empty() && group.content.size() + content.size() > goal + goal / 4) close(group);
    group.blobs.push_back({id, static_cast<std::uint32_t>(content.size()), kind});
    if (group.content.empty()) group.content.reserve(std::max(goal + goal / 4, content.size()));
    base::append(group.content, content);
    if (group.content.size() >= goal || group.blobs.size() == formats::kMaxGroupBlobs) close(group);
    ++summary_.new_blobs;
    summary_.new_size += content.size();
    return true;
  }

  bool put_group(formats::EncodedGroup group) {
    for (const auto& blob : group.blobs)
      if (is_there(blob.id, blob.size)) return false;
    for (const auto& blob : group.blobs) {
      seen_.insert(blob.id);
      ++summary_.new_blobs;
      summary_.new_size += blob.size;
    }
    std::promise<formats::EncodedGroup> ready;
    auto blobs = group.blobs;
    ready.set_value(std::move(group));
    append_later(std::move(blobs), ready.get_future());
    return true;
  }

  ObjectId put_text(base::Bytes text, BlobKind kind) {
    const auto id = hasher_.hash(text);
    (void)put(id, kind, Grouping::text, text);
    return id;
  }

  void claim(const ObjectId& content, const ObjectId& recipe, std::uint64_t size) {
    claims_.push_back({content, recipe, size, false});
  }

  AddSummary finish() {
    for (auto& group : open_)
      if (!group.blobs.empty()) close(group);
    while (!encoding_.empty()) append_oldest();
    if (pack_) publish();
    reading_.reset();
    if (dry_run_) return summary_;
    if (!is_replacing_) rescue();
    if (!claims_.empty())  // of recipes that were there
      vat_.with_index([&](internal::Index& index) { index.put_claims(claims_); });
    note_indexed();
    for (auto& claim : indexed_claims_) claim.proven = true;  // the content was hashed when it was added
    vat_.note_proven(std::exchange(indexed_claims_, {}));
    return summary_;
  }

 private:
  struct Group {
    std::vector<formats::PackedBlob> blobs;
    base::Buffer content;
  };
  /// A group on its way into the pack.
  struct Closed {
    std::vector<formats::PackedBlob> blobs;
    std::future<formats::EncodedGroup> encoded;
  };

  [[nodiscard]] bool is_there(const ObjectId& id, std::size_t size) const {
    return seen_.contains(id) || vat_.known_good(id, size, avoided_.empty() ? nullptr : &avoided_);
  }

  /// What was condemned since this began may be what it relied upon, or wrote itself.
  void rescue() const {
    for (const auto& [pack, mark] : internal::read_marks(vat_.dir.get(), std::time(nullptr))) {
      if (!mark.is_dead || avoided_.contains(pack)) continue;
      internal::remove_marks(vat_.dir.get(), {pack});
    }
  }

  void close(Group& group) {
    auto blobs = group.blobs;
    append_later(std::move(blobs), pool_.submit([group = std::exchange(group, {}), level = level_]() mutable {
      formats::ZstdCompressor compressor(level);  // a used one may find other matches
      return formats::encode_group(std::move(group.blobs), group.content, compressor);
    }));
  }

  void append_later(std::vector<formats::PackedBlob> blobs, std::future<formats::EncodedGroup> encoded) {
    encoding_.push_back({std::move(blobs), std::move(encoded)});
    // A bounded number of groups is in flight; their order is that of closing, whichever is compressed first.
    if (encoding_.size() > 2 * threads_ + 2) append_oldest();
  }

  void append_oldest() {
    const auto group = encoding_.front().encoded.get();
    encoding_.pop_front();
    if (dry_run_) {
      summary_.stored_size += group.bytes.size();
      return;
    }
    if (!pack_) pack_.emplace(vat_);
    (void)pack_->append(group);
    if (pack_->size() >= pack_size_ || pack_->blob_count() >= kPackBlobs) publish();
  }

  void publish() {
    const auto name = pack_->publish(claims_);
    vat_.with_index([](internal::Index& index) { index.begin_reading(); });  // again
    note_indexed();
    summary_.stored_size += pack_->size();
    summary_.packs.push_back(name);
    pack_.reset();
    forget_seen();
  }

  /// What is in the index need not be remembered here; so memory does not grow with the data.
  void forget_seen() {
    seen_.clear();
    const auto remember = [this](const auto& group) {
      for (const auto& blob : group.blobs) seen_.insert(blob.id);
    };
    for (const auto& group : open_) remember(group);
    for (const auto& group : encoding_) remember(group);
  }

  void note_indexed() {
    indexed_claims_.insert(indexed_claims_.end(), claims_.begin(), claims_.end());
    claims_.clear();
  }

  Vat& face_;
  Vat::Impl& vat_;
  std::optional<Reading> reading_{vat_};  ///< until it is finished
  int level_;
  std::uint64_t pack_size_;
  bool dry_run_;
  bool is_replacing_;
  std::set<std::string> avoided_;  ///< file names of packs in which nothing counts as there
  std::optional<Lease> lease_;
  unsigned threads_;
  base::ObjectHasher hasher_;
  std::array<Group, 4> open_;
  std::unordered_set<ObjectId> seen_;  ///< put, not in the index yet
  std::deque<Closed> encoding_;
  std::optional<internal::PackFile> pack_;
  std::vector<internal::Claim> claims_, indexed_claims_;  ///< yet to be put into the index; put
  AddSummary summary_;
  base::WorkerPool pool_;
};

Adder::Adder(Vat& vat, const AddOptions& options) : impl_(std::make_unique<Impl>(vat, options)) {}
Adder::~Adder() = default;

Vat& Adder::vat() const noexcept {
  return impl_->vat();
}

bool Adder::avoids_packs() const noexcept {
  return impl_->avoids_packs();
}

bool Adder::has(const ObjectId& id) const {
  return impl_->has(id);
}

bool Adder::put(const ObjectId& id, BlobKind kind, Grouping grouping, base::Bytes content) {
  return impl_->put(id, kind, grouping, content);
}

bool Adder::put_group(formats::EncodedGroup group) {
  return impl_->put_group(std::move(group));
}

std::function<ObjectId(base::Bytes, bool)> Adder::put_text(BlobKind root_kind) {
  return [this, root_kind](base::Bytes text, bool root) {
    return impl_->put_text(text, root ? root_kind : BlobKind::piece);
  };
}

void Adder::claim(const ObjectId& content, const ObjectId& recipe, std::uint64_t size) {
  impl_->claim(content, recipe, size);
}

AddSummary Adder::finish() {
  return impl_->finish();
}

}  // namespace vat
