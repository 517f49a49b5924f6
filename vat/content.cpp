#include "vat/content.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/hash.h"
#include "formats/text/recipe.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::RecipeItem;

/// Hands on only what lies in the range.
class Window {
 public:
  Window(const ByteRange& range, const base::ByteSink& sink, const HoleSink& holes)
      : begin_(range.offset),
        end_(range.length > UINT64_MAX - range.offset ? UINT64_MAX : range.offset + range.length),
        sink_(sink),
        holes_(holes) {}

  [[nodiscard]] bool touches(std::uint64_t offset, std::uint64_t size) const {
    return offset < end_ && offset + size > begin_;
  }
  [[nodiscard]] bool past(std::uint64_t offset) const { return offset >= end_; }

  void bytes(std::uint64_t offset, base::Bytes bytes) const {
    const auto [from, to] = clamp(offset, bytes.size());
    if (from < to) sink_(bytes.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from)));
  }
  void hole(std::uint64_t offset, std::uint64_t size) const {
    const auto [from, to] = clamp(offset, size);
    if (from >= to) return;
    if (holes_) return holes_(to - from);
    static constexpr std::array<std::byte, 65536> kZeros{};
    for (std::uint64_t left = to - from; left > 0;) {
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(left, kZeros.size()));
      sink_({kZeros.data(), count});
      left -= count;
    }
  }

 private:
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> clamp(std::uint64_t offset,
                                                              std::uint64_t size) const {
    return {begin_ > offset ? begin_ - offset : 0, end_ <= offset ? 0 : std::min(size, end_ - offset)};
  }
  std::uint64_t begin_, end_;
  const base::ByteSink& sink_;
  const HoleSink& holes_;
};

constexpr std::uint64_t kReadAheadFrom = std::uint64_t{16} << 20;  ///< content bytes worth threads
constexpr std::uint64_t kReadAhead = std::uint64_t{4} << 20;       ///< content bytes each may be ahead
/// Content bytes that one thread takes at a time: neighbours are likely to be in one group, which is decoded
/// once.
constexpr std::uint64_t kTaken = std::uint64_t{512} << 10;
constexpr unsigned kReaders = 4;  ///< threads at most

/// Has the source read the chunks of a recipe shortly before they are needed, on threads of its own: a
/// source keeps what it read last. What fails there fails again where it is needed.
class ReadAhead {
 public:
  ReadAhead(BlobSource& source, const ObjectId& recipe, std::uint64_t offset)
      : source_(source),
        reader_(source.read(recipe), source.object_format(),
                [&source](const ObjectId& id) { return source.read(id); }),
        reached_(offset) {
    reader_.seek(offset);
    // Where several are under way, as when a tree is written, they have the cores among them already.
    const unsigned count = under_way_++ == 0 ? std::min(std::thread::hardware_concurrency(), kReaders) : 1;
    ahead_ = kReadAhead * count;
    try {
      while (threads_.size() < count) threads_.emplace_back([this] { run(); });
    } catch (const std::system_error&) {
      // With fewer it is as good, only slower.
    }
  }
  ~ReadAhead() {
    reached(kStop);
    --under_way_;
  }
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  /// Whoever uses the content is there.
  void reached(std::uint64_t offset) {
    reached_ = offset;
    reached_.notify_all();
  }

 private:
  static constexpr std::uint64_t kStop = UINT64_MAX;

  void run() {
    try {
      for (auto chunks = take(); !chunks.empty(); chunks = take())
        for (const auto& [id, end] : chunks)
          if (reached_ < end) source_.stream(id, [](base::Bytes) {});
    } catch (...) {  // see above
    }
  }

  /// The next chunks and where each ends, once they are near; none at the end.
  std::vector<std::pair<ObjectId, std::uint64_t>> take() {
    const std::lock_guard lock(mutex_);
    std::vector<std::pair<ObjectId, std::uint64_t>> chunks;
    std::uint64_t size = 0;
    for (RecipeItem item; size < kTaken && reader_.next(item);) {
      if (item.type != RecipeItem::Type::chunk) continue;
      chunks.emplace_back(item.id, reader_.offset());
      size += item.size;
    }
    for (std::uint64_t at = reached_; at < reader_.offset() && reader_.offset() - at > ahead_; at = reached_)
      reached_.wait(at);
    if (reached_ == kStop) chunks.clear();
    return chunks;
  }

  static inline std::atomic<unsigned> under_way_ = 0;
  BlobSource& source_;
  std::uint64_t ahead_ = 0;
  std::mutex mutex_;  ///< guards reader_
  formats::RecipeReader reader_;
  std::atomic<std::uint64_t> reached_;
  std::vector<std::jthread> threads_;  // last: they use the rest
};

}  // namespace

void stream_recipe(BlobSource& source, const ObjectId& recipe, const ByteRange& range,
                   const base::ByteSink& sink, const HoleSink& holes) {
  const Window window(range, sink, holes);
  base::named("recipe " + recipe.short_hex(), [&] {
    formats::RecipeReader reader(source.read(recipe), source.object_format(),
                                 [&](const ObjectId& id) { return source.read(id); });
    reader.seek(range.offset);
    const auto size = reader.header().size;
    std::optional<ReadAhead> ahead;
    if (range.offset < size && std::min(range.length, size - range.offset) >= kReadAheadFrom &&
        std::thread::hardware_concurrency() > 1)
      ahead.emplace(source, recipe, range.offset);
    RecipeItem item;
    for (std::uint64_t offset; offset = reader.offset(), !window.past(offset) && reader.next(item);) {
      offset = reader.offset() - item.size;
      if (ahead) ahead->reached(reader.offset());
      if (!window.touches(offset, item.size)) continue;
      if (item.type == RecipeItem::Type::hole) {
        window.hole(offset, item.size);
        continue;
      }
      const auto wrong_size = [&] {
        return Error(Category::refused, "blob " + item.id.hex() + " is not of the size it lists");
      };
      if (item.type == RecipeItem::Type::slice) {
        const auto bytes = source.read(item.id);
        if (item.offset + item.size > bytes.size()) throw wrong_size();
        window.bytes(offset, base::Bytes(bytes).subspan(static_cast<std::size_t>(item.offset),
                                                        static_cast<std::size_t>(item.size)));
        continue;
      }
      source.stream(item.id, [&](base::Bytes bytes) {  // a chunk comes in one piece
        if (bytes.size() != item.size) throw wrong_size();
        window.bytes(offset, bytes);
      });
    }
  });
}

void stream_pinned(BlobSource& source, const std::optional<ObjectId>& blob,
                   const std::optional<ObjectId>& recipe, const base::ByteSink& sink, const HoleSink& holes) {
  if (recipe)
    stream_recipe(source, *recipe, {}, sink, holes);
  else
    source.stream(blob.value(), sink);
}

Content find_content(BlobSource& source, const ObjectId& id) {
  std::optional<Error> failure;
  try {
    if (const auto stored = source.find(id)) return {stored->size, std::nullopt};
  } catch (const Error& error) {
    if (error.category() == Category::internal || error.category() == Category::busy) throw;
    failure.emplace(error);  // a recipe may describe it all the same
  }
  const auto claims = source.find_recipes(id);
  for (const auto& claim : claims) {
    if (claim.proven) return {claim.size, claim.recipe};
    try {
      base::ObjectHasher hasher(source.object_format());
      hasher.reset(claim.size);
      std::uint64_t size = 0;
      stream_recipe(source, claim.recipe, {}, [&](base::Bytes bytes) {
        size += bytes.size();
        hasher.update(bytes);
      });
      if (size == claim.size && hasher.finish() == id) {
        source.note_proven(id, claim.recipe, claim.size);
        return {claim.size, claim.recipe};
      }
      failure.emplace(Category::corrupt, "content " + id.hex() + ": recipe " + claim.recipe.short_hex() +
                                             " describes other bytes");
    } catch (const Error& error) {
      const auto category = error.category();
      if (category != Category::corrupt && category != Category::refused && category != Category::not_found)
        throw;
      failure.emplace(base::prefixed("content " + id.hex(), error));
    }
  }
  if (failure) throw Error(*failure);
  if (claims.empty() && source.renew_recipes()) return find_content(source, id);
  (void)source.read(id);  // says what is wrong with a damaged copy
  throw Error(Category::not_found, "content " + id.hex() + ": not found");
}

namespace {

bool holds(BlobSource& source, const ObjectId& blob, const std::optional<ObjectId>& recipe,
           const std::function<bool(const ObjectId&)>& has) {
  if (!recipe) return has(blob);
  try {
    if (!has(*recipe)) return false;
    formats::RecipeReader reader(source.read(*recipe), source.object_format(), [&](const ObjectId& id) {
      if (!has(id)) throw Error(Category::not_found, "blob " + id.hex());
      return source.read(id);
    });
    if (reader.header().blob != blob) return false;
    for (RecipeItem item; reader.next(item);)
      if (item.type != RecipeItem::Type::hole && !has(item.id)) return false;
    return true;
  } catch (const Error& error) {
    const auto category = error.category();
    if (category != Category::corrupt && category != Category::refused && category != Category::not_found)
      throw;
    return false;
  }
}

}  // namespace

bool holds(BlobSource& source, const ObjectId& blob, const std::optional<ObjectId>& recipe) {
  return holds(source, blob, recipe, [&](const ObjectId& id) { return source.find(id).has_value(); });
}

bool holds(const Adder& adder, const ObjectId& blob, const std::optional<ObjectId>& recipe) {
  return holds(adder.vat(), blob, recipe, [&](const ObjectId& id) { return adder.has(id); });
}

void stream_content(BlobSource& source, const ObjectId& id, const ByteRange& range,
                    const base::ByteSink& sink) {
  const auto content = find_content(source, id);
  if (content.recipe) return stream_recipe(source, *content.recipe, range, sink);
  const HoleSink no_holes;
  const Window window(range, sink, no_holes);
  std::uint64_t offset = 0;
  source.stream(id, [&](base::Bytes bytes) {
    window.bytes(offset, bytes);
    offset += bytes.size();
  });
}

}  // namespace vat
