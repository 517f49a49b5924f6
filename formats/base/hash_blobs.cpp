// Each lane works on a blob of its own. A blob is up to three segments of whole blocks: its first block,
// which begins with the header, the blocks that lie in the content, and the last one or two, which are
// padded. All lanes advance together by as many blocks as the shortest segment has left; a lane that is done
// takes the next blob.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/hash.h"
#include "formats/base/internal/lanes.h"
#include "formats/base/internal/sha1.h"
#include "formats/base/simd.h"

namespace base {
namespace {

using internal::kMaxLanes;
using internal::Lanes;

constexpr std::size_t kBlock = 64;
constexpr std::array<std::uint32_t, 8> kSha256Initial{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
constexpr std::array<std::uint32_t, 8> kSha1Initial{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476,
                                                    0xc3d2e1f0};

/// Where a lane is in its blob.
class Lane {
 public:
  void begin(std::size_t blob, Bytes content) {
    blob_ = blob;
    content_ = content;
    const auto header = "blob " + std::to_string(content.size()) + std::string(1, '\0');
    const std::size_t total = header.size() + content.size();
    const std::size_t whole = total / kBlock;
    std::memcpy(edge_.data(), header.data(), header.size());
    if (whole == 0) {
      in_content_ = 0;
      return pad(header.size(), total);
    }
    std::memcpy(edge_.data() + header.size(), content.data(), kBlock - header.size());
    content_ = content.subspan(kBlock - header.size());
    in_content_ = whole - 1;
    total_ = total;
    at_ = edge_.data();
    left_ = 1;
  }

  [[nodiscard]] std::size_t blob() const { return blob_; }
  [[nodiscard]] const std::byte* at() const { return at_; }
  [[nodiscard]] std::size_t left() const { return left_; }

  /// After `count` blocks; false at the end of the blob.
  bool advance(std::size_t count) {
    at_ += count * kBlock;
    left_ -= count;
    if (left_ > 0) return true;
    if (padded_) return padded_ = false;
    if (in_content_ > 0) {
      at_ = content_.data();
      left_ = std::exchange(in_content_, 0);
      content_ = content_.subspan(left_ * kBlock);
      return true;
    }
    pad(0, total_);
    return true;
  }

 private:
  /// The last blocks: `filled` bytes are there, then the rest of the content, 0x80, zeros and the size in
  /// bits.
  void pad(std::size_t filled, std::size_t total) {
    if (!content_.empty()) std::memcpy(edge_.data() + filled, content_.data(), content_.size());
    filled += content_.size();
    left_ = filled + 9 <= kBlock ? 1 : 2;
    edge_[filled] = std::byte{0x80};
    std::memset(edge_.data() + filled + 1, 0, left_ * kBlock - filled - 9);
    const std::uint64_t bits = std::uint64_t{total} * 8;
    for (std::size_t i = 0; i < 8; ++i)
      edge_[left_ * kBlock - 8 + i] = static_cast<std::byte>(bits >> (56 - 8 * i));
    at_ = edge_.data();
    padded_ = true;
  }

  std::size_t blob_ = 0, total_ = 0;
  Bytes content_;  ///< not yet given out
  std::size_t in_content_ = 0;
  bool padded_ = false;
  const std::byte* at_ = nullptr;
  std::size_t left_ = 0;  ///< blocks from at_ on
  std::array<std::byte, 2 * kBlock> edge_;
};

/// Suspect blocks that wait until there is one for each lane.
class AttackChecks {
 public:
  explicit AttackChecks(int step) : step_(step) {}

  void add(const internal::Suspect& suspect, std::uint32_t vector, const Lanes& lanes) {
    std::copy_n(suspect.block, kBlock, blocks_[count_].begin());
    std::copy_n(suspect.state, 5, states_[count_].begin());
    vectors_[count_] = vector;
    if (++count_ == lanes.lanes) run(lanes);
  }

  /// Throws refused if one of them completes an attack.
  void run(const Lanes& lanes) {
    if (count_ == 0) return;
    std::array<std::uint32_t, 5 * kMaxLanes> states;
    std::array<const std::byte*, kMaxLanes> blocks;
    std::array<std::uint32_t, kMaxLanes> vectors, differs;
    for (std::size_t i = 0; i < lanes.lanes; ++i) {
      const std::size_t from = i < count_ ? i : 0;
      blocks[i] = blocks_[from].data();
      vectors[i] = vectors_[from];
      for (std::size_t j = 0; j < 5; ++j) states[j * lanes.lanes + i] = states_[from][j];
    }
    count_ = 0;
    lanes.sha1_check(step_, states.data(), blocks.data(), vectors.data(), differs.data());
    if (std::any_of(differs.begin(), differs.begin() + lanes.lanes, [](auto bits) { return bits == 0; }))
      internal::refuse_attack();
  }

 private:
  int step_;
  std::size_t count_ = 0;
  std::array<std::array<std::byte, kBlock>, kMaxLanes> blocks_;
  std::array<std::array<std::uint32_t, 5>, kMaxLanes> states_;
  std::array<std::uint32_t, kMaxLanes> vectors_;
};

/// Hashes one batch of blobs, as many at a time as there are lanes.
class Batch {
 public:
  Batch(const Lanes& lanes, ObjectFormat format, std::span<const Bytes> contents, std::span<ObjectId> ids)
      : lanes_(lanes), format_(format), contents_(contents), ids_(ids) {}

  void run(std::span<const std::size_t> order) {
    auto next = order.begin();
    while (true) {
      const std::byte* somewhere = nullptr;
      std::size_t count = SIZE_MAX;
      for (std::size_t i = 0; i < lanes_.lanes; ++i) {
        if (!busy_[i] && next != order.end()) begin(i, *next++);
        if (!busy_[i]) continue;
        somewhere = lane_[i].at();
        count = std::min(count, lane_[i].left());
      }
      if (somewhere == nullptr) break;
      std::array<const std::byte*, kMaxLanes> blocks;
      for (std::size_t i = 0; i < lanes_.lanes; ++i) blocks[i] = busy_[i] ? lane_[i].at() : somewhere;
      if (format_ == ObjectFormat::sha256)
        lanes_.sha256(states_.data(), blocks.data(), count);
      else
        lanes_.sha1(states_.data(), blocks.data(), count, on_suspect, this);
      for (std::size_t i = 0; i < lanes_.lanes; ++i)
        if (busy_[i] && !lane_[i].advance(count)) finish(i);
    }
    checks_at_58_.run(lanes_);
    checks_at_65_.run(lanes_);
  }

 private:
  std::uint32_t& word(std::size_t j, std::size_t lane) { return states_[j * lanes_.lanes + lane]; }

  void begin(std::size_t lane, std::size_t blob) {
    lane_[lane].begin(blob, contents_[blob]);
    busy_[lane] = true;
    const auto& initial = format_ == ObjectFormat::sha256 ? kSha256Initial : kSha1Initial;
    for (std::size_t j = 0; j < initial.size(); ++j) word(j, lane) = initial[j];
  }

  void finish(std::size_t lane) {
    busy_[lane] = false;
    std::array<std::byte, 32> digest;
    const std::size_t size = id_size(format_);
    for (std::size_t i = 0; i < size; ++i)
      digest[i] = static_cast<std::byte>(word(i / 4, lane) >> (24 - 8 * (i % 4)));
    ids_[lane_[lane].blob()] = ObjectId(format_, Bytes(digest).subspan(0, size));
  }

  static void on_suspect(void* context, const internal::Suspect& suspect) {
    auto& batch = *static_cast<Batch*>(context);
    if (!batch.busy_[suspect.lane]) return;
    for (auto left = suspect.mask; left != 0; left &= left - 1) {
      const auto vector = static_cast<std::uint32_t>(std::countr_zero(left));
      auto& checks = internal::Sha1::meeting_step(vector) == 58 ? batch.checks_at_58_ : batch.checks_at_65_;
      checks.add(suspect, vector, batch.lanes_);
    }
  }

  const Lanes& lanes_;
  ObjectFormat format_;
  std::span<const Bytes> contents_;
  std::span<ObjectId> ids_;
  std::array<Lane, kMaxLanes> lane_;
  std::array<bool, kMaxLanes> busy_{};
  std::array<std::uint32_t, 8 * kMaxLanes> states_{};
  AttackChecks checks_at_58_{58}, checks_at_65_{65};
};

/// nullptr if one at a time is faster.
const Lanes* find_lanes(ObjectFormat format) {
  if (simd() == Simd::avx512) return internal::find_avx512_lanes();
  static const bool one_is_fast = has_sha_instructions();
  if (simd() == Simd::none || (format == ObjectFormat::sha256 && one_is_fast)) return nullptr;
  return internal::find_avx2_lanes();
}

/// How many blobs in lanes take as long as one by itself takes otherwise.
std::size_t worthwhile(const Lanes& lanes, ObjectFormat format) {
  return format == ObjectFormat::sha256 ? lanes.lanes * 9 / 16 : 2;
}

}  // namespace

void hash_blobs(ObjectFormat format, std::span<const Bytes> contents, std::span<ObjectId> ids) {
  const auto* lanes = find_lanes(format);
  std::vector<std::size_t> order(contents.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::span<const std::size_t> rest = order;
  std::size_t left = 0;
  for (const auto& content : contents) left += content.size() + kBlock;
  if (lanes != nullptr)
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return contents[a].size() > contents[b].size(); });
  // What is so large that it would go on alone when the others are done is not for the lanes.
  ObjectHasher hasher(format);
  while (!rest.empty()) {
    const auto& largest = contents[rest.front()];
    if (lanes != nullptr && (largest.size() + kBlock) * worthwhile(*lanes, format) <= left)
      return Batch(*lanes, format, contents, ids).run(rest);
    ids[rest.front()] = hasher.hash(largest);
    left -= largest.size() + kBlock;
    rest = rest.subspan(1);
  }
}

}  // namespace base
