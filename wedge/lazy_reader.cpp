#include "wedge/lazy_reader.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "formats/base/error.h"
#include "formats/pack/pack.h"
#include "formats/text/recipe.h"
#include "vat/content.h"

namespace wedge {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::RecipeItem;

namespace {

constexpr std::chrono::milliseconds kPoll{50};
constexpr std::uint64_t kDecodeAhead = std::uint64_t{2} << 20;  ///< bytes

/// What a range of a content is made of.
struct Piece {
  std::uint64_t begin = 0;  ///< in the content
  std::uint64_t slice = 0;  ///< where in the blob it begins
  std::uint64_t size = 0;
  RecipeItem::Type type = RecipeItem::Type::chunk;
  ObjectId id;
  [[nodiscard]] bool is_hole() const noexcept { return type == RecipeItem::Type::hole; }
};

}  // namespace

/// All of a content, in order. Neither if it is one blob that is too large to be read at once.
struct LazyReader::Pieces {
  std::vector<Piece> pieces;
  std::optional<ObjectId> stream;

  [[nodiscard]] auto from(std::uint64_t offset) const {
    return std::partition_point(pieces.begin(), pieces.end(),
                                [&](const Piece& piece) { return piece.begin + piece.size <= offset; });
  }
};

class LazyReader::File {
 public:
  File(std::uint64_t content_size, std::function<Made()> is_made)
      : size(content_size), made(std::move(is_made)) {}

  const std::uint64_t size;
  const std::function<Made()> made;
  std::atomic<std::uint64_t> next = 0;      ///< where the last read ended
  std::atomic<std::uint64_t> run = 0;       ///< bytes that were read in order up to there
  std::atomic<std::uint64_t> ahead_to = 0;  ///< read ahead up to there

  std::mutex mutex;  ///< guards what follows
  std::shared_future<std::shared_ptr<const Pieces>> pieces;
};

LazyReader::LazyReader(vat::BlobSource& source, const Options& options)
    : source_(source), options_(options), pool_(options.threads) {}
LazyReader::~LazyReader() = default;

LazyReader::FilePtr LazyReader::open(std::uint64_t size, std::function<Made()> made) {
  return std::make_shared<File>(size, std::move(made));
}

namespace {

template <typename Future>
void wait_for(const Future& coming, const std::function<bool()>& is_over) {
  while (is_over && coming.wait_for(kPoll) != std::future_status::ready)
    if (is_over()) throw Error(Category::busy, "given up");
}

}  // namespace

std::shared_ptr<const LazyReader::Pieces> LazyReader::pieces_of(const FilePtr& file,
                                                                const std::function<bool()>& is_over) {
  const auto find = [this, size = file->size](const Made& made) {
    auto all = std::make_shared<Pieces>();
    if (made.recipe) {
      formats::RecipeReader reader(source_.read(*made.recipe), source_.object_format(),
                                   [&](const ObjectId& id) { return source_.read(id); });
      if (reader.header().size != size) throw Error(Category::refused, "recipe: of another size");
      for (RecipeItem item; reader.next(item);) {
        all->pieces.push_back({reader.offset() - item.size, item.offset, item.size, item.type, item.id});
      }
    } else if (size > formats::kMaxPackedBlob) {
      all->stream = made.blob.value();
    } else {
      all->pieces.push_back({0, 0, size, RecipeItem::Type::chunk, made.blob.value()});
    }
    return std::shared_ptr<const Pieces>(std::move(all));
  };
  std::shared_future<std::shared_ptr<const Pieces>> coming;
  {
    const std::lock_guard lock(file->mutex);
    if (!file->pieces.valid()) {
      // The future of the job itself would hold what the job holds: the file, which would hold the future.
      auto found = std::make_shared<std::promise<std::shared_ptr<const Pieces>>>();  // shared: jobs are copied
      file->pieces = found->get_future().share();
      (void)pool_.submit([file, find, found] {
        try {
          found->set_value(find(file->made()));
        } catch (...) {
          found->set_exception(std::current_exception());
        }
      });
    }
    coming = file->pieces;
  }
  wait_for(coming, is_over);
  try {
    return coming.get();
  } catch (...) {
    const std::lock_guard lock(file->mutex);
    file->pieces = {};  // the next reader tries again
    throw;
  }
}

/// The chunk, here or on its way.
LazyReader::Coming LazyReader::want(const ObjectId& id, std::size_t size) {
  const std::lock_guard lock(mutex_);
  if (const auto known = by_id_.find(id); known != by_id_.end()) {
    kept_.splice(kept_.begin(), kept_, known->second);
    return known->second->chunk;
  }
  Coming coming = pool_
                      .submit([this, id]() -> Chunk {
                        try {
                          return std::make_shared<const base::Buffer>(source_.read(id));
                        } catch (...) {
                          forget(id);  // the next reader tries again
                          throw;
                        }
                      })
                      .share();
  kept_.push_front({id, coming, size});
  by_id_[id] = kept_.begin();
  kept_size_ += size;
  while (kept_size_ > options_.memory && kept_.size() > 1) {
    kept_size_ -= kept_.back().size;
    by_id_.erase(kept_.back().id);
    kept_.pop_back();
  }
  return coming;
}

void LazyReader::forget(const ObjectId& id) {
  const std::lock_guard lock(mutex_);
  const auto known = by_id_.find(id);
  if (known == by_id_.end()) return;
  kept_size_ -= known->second->size;
  kept_.erase(known->second);
  by_id_.erase(known);
}

std::size_t LazyReader::read(const FilePtr& file, std::uint64_t offset, base::MutableBytes bytes,
                             const std::function<bool()>& is_over) {
  if (offset >= file->size) return 0;
  bytes =
      bytes.subspan(0, static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), file->size - offset)));
  const auto end = offset + bytes.size();
  const auto all = pieces_of(file, is_over);
  if (all->stream) {
    std::size_t done = 0;
    vat::stream_content(source_, *all->stream, {offset, bytes.size()}, [&](base::Bytes part) {
      std::copy(part.begin(), part.end(), bytes.begin() + static_cast<std::ptrdiff_t>(done));
      done += part.size();
    });
    return done;
  }
  std::vector<std::pair<const Piece*, Coming>> parts;
  for (auto piece = all->from(offset); piece != all->pieces.end() && piece->begin < end; ++piece) {
    if (!piece->is_hole() && options_.on_touch) options_.on_touch(piece->id);
    parts.emplace_back(&*piece, piece->is_hole() ? Coming() : want(piece->id, piece->size));
  }
  const bool is_next = file->next.exchange(end) == offset;
  const auto run = is_next ? file->run.fetch_add(bytes.size()) + bytes.size() : 0;
  if (is_next) {
    // A part of what was read in order: whoever stops has not cost much.
    read_ahead(*file, *all, end, std::min(options_.ahead, run / options_.caution));
    decode_ahead(*file, *all, end, std::min(kDecodeAhead, run));
  } else {
    file->run = bytes.size();
    file->ahead_to = end;
  }
  for (const auto& [piece, coming] : parts) {
    const auto from = std::max(offset, piece->begin), to = std::min(end, piece->begin + piece->size);
    const auto out =
        bytes.subspan(static_cast<std::size_t>(from - offset), static_cast<std::size_t>(to - from));
    if (piece->is_hole()) {
      std::fill(out.begin(), out.end(), std::byte{0});
      continue;
    }
    wait_for(coming, is_over);
    const auto& chunk = *coming.get();
    const auto at = piece->slice + (from - piece->begin);
    if (piece->type == RecipeItem::Type::chunk ? chunk.size() != piece->size : at + out.size() > chunk.size())
      throw Error(Category::refused, "recipe: a chunk of another size");
    std::copy_n(chunk.begin() + static_cast<std::ptrdiff_t>(at), out.size(), out.begin());
  }
  return bytes.size();
}

std::vector<ObjectId> LazyReader::chunks_at(const FilePtr& file, std::uint64_t offset, std::uint64_t size) {
  const auto all = pieces_of(file, {});
  std::vector<ObjectId> ids;
  for (auto piece = all->from(offset); piece != all->pieces.end() && piece->begin < offset + size; ++piece)
    if (!piece->is_hole() && std::find(ids.begin(), ids.end(), piece->id) == ids.end())
      ids.push_back(piece->id);
  return ids;
}

LazyReader::Run LazyReader::run_at(const FilePtr& file, std::uint64_t offset,
                                   const std::function<bool()>& is_over) {
  const auto all = pieces_of(file, is_over);
  if (all->stream) return {file->size, false};
  auto piece = all->from(offset);
  if (piece == all->pieces.end()) return {file->size, false};
  const bool is_hole = piece->is_hole();
  auto end = offset;
  for (; piece != all->pieces.end() && piece->is_hole() == is_hole; ++piece) end = piece->begin + piece->size;
  return {end, is_hole};
}

std::uint64_t LazyReader::data_size(const FilePtr& file, const std::function<bool()>& is_over) {
  const auto all = pieces_of(file, is_over);
  if (all->stream) return file->size;
  std::uint64_t size = 0;
  for (const auto& piece : all->pieces)
    if (!piece.is_hole()) size += piece.size;
  return size;
}

/// So that the next read finds it done.
void LazyReader::decode_ahead(const File& file, const Pieces& all, std::uint64_t end, std::uint64_t size) {
  const auto wanted = std::min({file.size, end + size, file.ahead_to.load()});
  for (auto piece = all.from(end); piece != all.pieces.end() && piece->begin < wanted; ++piece)
    if (!piece->is_hole()) (void)want(piece->id, piece->size);
}

/// Has the source fetch what comes next.
void LazyReader::read_ahead(File& file, const Pieces& all, std::uint64_t end, std::uint64_t size) {
  const auto done = std::max(file.ahead_to.load(), end);
  const auto wanted = std::min(file.size, end + size);
  if (done >= wanted || (done > end && wanted - done < size / 4 && wanted < file.size)) return;
  file.ahead_to = wanted;
  std::vector<ObjectId> ids;
  for (auto piece = all.from(done); piece != all.pieces.end() && piece->begin < wanted; ++piece)
    if (!piece->is_hole()) ids.push_back(piece->id);
  if (!ids.empty()) source_.prefetch(ids);
}

}  // namespace wedge
