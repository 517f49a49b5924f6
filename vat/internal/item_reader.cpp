#include "vat/internal/item_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/recipe.h"
#include "vat/internal/image_cutter.h"
#include "vat/internal/stream_cutter.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::RecipeItem;

constexpr std::uint64_t kMinMember = 128;  ///< bytes of a member that is not left in the skeleton
constexpr std::size_t kMaxSkeleton = std::size_t{64} << 10;  ///< bytes of one blob of it
constexpr std::size_t kMaxEvents = 4096;
static_assert(kReadSize >= std::size_t{1} << chunker::kMaxExponent);

bool same_state(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec &&
         a.st_ctim.tv_sec == b.st_ctim.tv_sec && a.st_ctim.tv_nsec == b.st_ctim.tv_nsec;
}

struct stat state_of(int fd) {
  struct stat info;
  if (::fstat(fd, &info) != 0) base::throw_errno("stat", errno);
  return info;
}

/// Reads a part of a disk through `buffer`, in order; what is known to be holes comes as a number.
template <typename OnBytes, typename OnZeros>
void read_sparse(formats::Disk& disk, const formats::Disk::Extent& part, base::Buffer& buffer,
                 const OnBytes& on_bytes, const OnZeros& on_zeros) {
  for (std::uint64_t at = part.begin; at < part.end;) {
    const auto extent = disk.find_extent(at);
    const auto begin = std::min(extent.begin, part.end), end = std::min(extent.end, part.end);
    if (begin > at) on_zeros(begin - at);
    at = begin;
    while (at < end) {
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(end - at, buffer.size()));
      disk.read(at, {buffer.data(), count});
      on_bytes(base::Bytes(buffer).subspan(0, count));
      at += count;
    }
  }
}

/// Zeros that no file system keeps, as far as it tells.
std::uint64_t hole_size(formats::Disk& disk) {
  std::uint64_t data = 0;
  for (auto extent = disk.find_extent(0); extent.begin < extent.end; extent = disk.find_extent(extent.end))
    data += extent.end - extent.begin;
  return disk.size() - data;
}

void require_few_holes(formats::Disk& disk, std::uint64_t max) {
  if (disk.size() <= max) return;
  if (const auto holes = hole_size(disk); holes > max)
    throw Error(Category::refused,
                "has " + base::human_size(holes) + " of holes, which its id takes long to compute with",
                "--allow-holes " + std::to_string((holes >> 30) + 1) +
                    "G, if that is meant; add-image needs no such id");
}

}  // namespace

ItemReader::ItemReader(const chunker::Parameters& parameters, base::ObjectFormat format, const Adder* adder)
    : parameters_(parameters),
      format_(format),
      adder_(adder),
      storing_(adder != nullptr),
      hasher_(format),
      buffer_(kReadSize) {
  if (adder != nullptr) known_.emplace(*adder);
}

void ItemReader::run(std::vector<std::unique_ptr<IngestItem>> items, ParcelQueue& channel) {
  channel_ = &channel;
  begin_parcel();
  for (auto& item : items) {
    try {
      if (const auto fd = item->open()) item->content = read(fd->get(), *item);
    } catch (const Error&) {
      item->failure = std::current_exception();
      item->content.reset();
    }
    parcel_.events.push_back({Event::Type::done, {}, 0, {}, std::move(item)});
    if (parcel_.bytes.size() >= kParcelSize) flush();
  }
  flush();
}

Ingested ItemReader::read(int fd, IngestItem& item) {
  const auto& before = item.state;
  if (!S_ISREG(before.st_mode)) throw Error(Category::refused, "not a regular file");
  auto size = static_cast<std::uint64_t>(before.st_size);
  ObjectId id;
  if (item.kind == IngestItem::Kind::image || item.kind == IngestItem::Kind::named_image) {
    const auto disk = item.disk(fd);
    size = disk->size();
    if (item.kind == IngestItem::Kind::named_image) require_few_holes(*disk, item.max_holes);
    id = item.base && storing_ ? read_like(*disk, item.kind, *item.base) : read_large(*disk, item.kind);
  } else if (const auto members = find_members(fd, size, item.kind); !members.empty()) {
    id = read_tar(fd, size, members);
  } else if (size <= parameters_.average_size()) {
    read_small(fd, size);
  } else if (storing_ && size <= kReadSize) {
    read_middle(fd, size);
  } else {
    const auto disk = formats::open_raw_disk(fd);
    // Most files are known to have none without a look.
    if (static_cast<std::uint64_t>(before.st_blocks) * 512 < size) require_few_holes(*disk, item.max_holes);
    id = read_large(*disk, IngestItem::Kind::file);
  }
  if (!same_state(before, state_of(fd))) throw Error(Category::local, "changed while it was read");
  return {id, {}, size};
}

void ItemReader::read_small(int fd, std::uint64_t size) {
  parcel_.events.push_back({Event::Type::whole, {}, read_whole(fd, size).size(), Grouping::small_file});
}

base::Bytes ItemReader::read_whole(int fd, std::uint64_t size) {
  // Some file systems say that files are empty which are not.
  const auto room = parcel_.bytes.room(std::max<std::size_t>(static_cast<std::size_t>(size), 1));
  // Not read(), which would wait if a fifo has taken the file's place.
  const std::size_t count = base::read_some_at(fd, 0, room);
  if (count != size) throw Error(Category::local, "changed while it was read");
  parcel_.bytes.add(count);
  parcel_.read += count;
  return room.subspan(0, count);
}

std::vector<formats::TarContent> ItemReader::find_members(int fd, std::uint64_t size,
                                                          IngestItem::Kind kind) const {
  if (kind != IngestItem::Kind::tar || !storing_ || size <= parameters_.average_size()) return {};
  auto members = formats::find_tar_contents(base::reader_of(fd), size);
  if (members) std::erase_if(*members, [](const auto& member) { return member.size < kMinMember; });
  return members.value_or(std::vector<formats::TarContent>());
}

ObjectId ItemReader::read_tar(int fd, std::uint64_t size, const std::vector<formats::TarContent>& members) {
  hasher_.reset(size);
  base::Buffer skeleton;
  std::uint64_t at = 0;
  const auto read_skeleton = [&](std::uint64_t end) {
    while (at < end) {
      if (skeleton.size() == kMaxSkeleton) {
        emit_skeleton(skeleton);
        if (parcel_.bytes.size() >= kParcelSize) flush();
      }
      const auto count =
          static_cast<std::size_t>(std::min<std::uint64_t>(end - at, kMaxSkeleton - skeleton.size()));
      skeleton.resize(skeleton.size() + count);
      const auto part = base::MutableBytes(skeleton).last(count);
      read_next(fd, at, part);
      parcel_.events.push_back({Event::Type::slice, {}, count});
    }
  };
  for (const auto& member : members) {
    read_skeleton(member.begin);
    read_member(fd, at, member.size);
    if (parcel_.bytes.size() >= kParcelSize || parcel_.events.size() >= kMaxEvents) flush();
  }
  read_skeleton(size);
  emit_skeleton(skeleton);
  return hasher_.finish();
}

void ItemReader::read_next(int fd, std::uint64_t& at, base::MutableBytes to) {
  if (!base::read_exact_at(fd, at, to)) throw Error(Category::local, "changed while it was read");
  hasher_.update(to);
  at += to.size();
  parcel_.read += to.size();
}

void ItemReader::emit_skeleton(base::Buffer& skeleton) {
  if (!skeleton.empty()) emit(Event::Type::skeleton, skeleton, Grouping::small_file);
  skeleton.clear();
}

void ItemReader::read_member(int fd, std::uint64_t& at, std::uint64_t size) {
  if (size <= parameters_.average_size()) {
    const auto room = parcel_.bytes.room(static_cast<std::size_t>(size));
    read_next(fd, at, room);
    parcel_.bytes.add(room.size());
    parcel_.events.push_back({Event::Type::chunk, {}, size, Grouping::small_file});
    return;
  }
  StreamCutter cutter(
      parameters_,
      [&](base::Bytes chunk) {
        emit(Event::Type::chunk, chunk, Grouping::chunk);
        if (parcel_.bytes.size() >= kParcelSize) flush();
      },
      [&](std::uint64_t length) {  // members lie where no hole may begin
        for (const base::Buffer zeros(parameters_.max_size); length > 0;) {
          const auto count = std::min<std::uint64_t>(length, zeros.size());
          emit(Event::Type::chunk, base::Bytes(zeros).first(static_cast<std::size_t>(count)),
               Grouping::chunk);
          if (parcel_.bytes.size() >= kParcelSize) flush();
          length -= count;
        }
      });
  for (const auto end = at + size; at < end;) {
    const auto part = base::MutableBytes(buffer_).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(end - at, buffer_.size())));
    read_next(fd, at, part);
    cutter.feed(part);
  }
  cutter.finish();
}

void ItemReader::read_middle(int fd, std::uint64_t size) {
  const auto bytes = read_whole(fd, size);
  auto& events = parcel_.events;
  StreamCutter cutter(
      parameters_,
      [&](base::Bytes chunk) {
        events.push_back({chunk.size() == size ? Event::Type::whole : Event::Type::chunk, {}, chunk.size()});
      },
      [&](std::uint64_t length) {
        events.push_back({Event::Type::hole, {}, length, {}, nullptr, static_cast<std::size_t>(length)});
      });
  const std::size_t before = events.size();
  cutter.feed_all(bytes);
  if (events.size() > before + 1 || events.back().type == Event::Type::hole)
    events.push_back({Event::Type::content, {}, size});
}

ObjectId ItemReader::read_large(formats::Disk& disk, IngestItem::Kind kind) {
  const bool named = kind != IngestItem::Kind::image;
  if (named) hasher_.reset(disk.size());
  read_part(disk, {0, disk.size()}, kind, named);
  return named ? hasher_.finish() : ObjectId();
}

void ItemReader::read_part(formats::Disk& disk, const formats::Disk::Extent& part, IngestItem::Kind kind,
                           bool named) {
  if (part.begin == part.end) return;
  const bool image = kind != IngestItem::Kind::file;
  ImageCutter cutter(
      parameters_, format_, image && known_ ? &*known_ : nullptr,
      {[&](base::Bytes chunk) {
         emit(chunk.size() == disk.size() && !image ? Event::Type::whole : Event::Type::chunk, chunk,
              image && chunk.size() >= KnownBlocks::kBlock ? Grouping::single : Grouping::chunk);
         if (parcel_.bytes.size() >= kParcelSize || parcel_.events.size() >= kMaxEvents) flush();
       },
       [&](std::uint64_t length) {
         parcel_.events.push_back({Event::Type::hole, {}, length});
       },
       [&](const ObjectId& id, std::uint64_t size) {
         parcel_.events.push_back({Event::Type::kept, id, size});
         if (parcel_.events.size() >= kMaxEvents) flush();
       }},
      part.begin);
  read_sparse(
      disk, part, buffer_,
      [&](base::Bytes bytes) {
        if (named) hasher_.update(bytes);
        if (storing_) cutter.feed(bytes);
        parcel_.read += bytes.size();
      },
      [&](std::uint64_t zeros) {
        if (storing_) cutter.feed_zeros(zeros);
        if (named) hasher_.update_zeros(zeros);
        parcel_.read += zeros;
      });
  if (storing_) cutter.finish();
}

ObjectId ItemReader::read_like(formats::Disk& disk, IngestItem::Kind kind, const ImageBase& base) {
  std::optional<formats::RecipeReader> recipe;
  const auto next = [&](RecipeItem& item) {
    try {
      if (!recipe)
        recipe.emplace(base.source->read(base.recipe), format_,
                       [&](const ObjectId& id) { return base.source->read(id); });
      return recipe->next(item);
    } catch (const Error&) {
      if (base.is_below) throw;
      return false;  // what cannot be read any more is nothing to be like
    }
  };
  std::uint64_t at = 0;  // what is before is done
  std::vector<OldChunk> chunks;
  for (bool more = true; more;) {
    chunks.clear();
    RecipeItem item;
    std::uint64_t size = 0;
    while (size < kParcelSize && (more = next(item) && recipe->offset() <= disk.size())) {
      if (item.type != RecipeItem::Type::chunk) continue;
      chunks.push_back({recipe->offset() - item.size, item.size, item.id});
      size += item.size;
    }
    base.is_below ? find_unchanged(disk, chunks) : find_equal(disk, chunks);
    for (const auto& chunk : chunks) {
      if (!chunk.is_same) continue;
      read_part(disk, {at, chunk.begin}, kind);
      parcel_.events.push_back({Event::Type::kept, chunk.id, chunk.size});
      parcel_.read += chunk.size;
      at = chunk.begin + chunk.size;
    }
    if (parcel_.events.size() >= kMaxEvents) flush();
  }
  read_part(disk, {at, disk.size()}, kind);
  if (kind != IngestItem::Kind::named_image) return {};
  hasher_.reset(disk.size());
  read_sparse(
      disk, {0, disk.size()}, buffer_, [&](base::Bytes bytes) { hasher_.update(bytes); },
      [&](std::uint64_t zeros) { hasher_.update_zeros(zeros); });
  return hasher_.finish();
}

bool ItemReader::is_kept(const ObjectId& id) const {
  return !adder_->avoids_packs() || adder_->has(id);
}

void ItemReader::find_unchanged(formats::Disk& disk, std::vector<OldChunk>& chunks) {
  formats::Disk::Extent changed{0, 0};
  for (auto& chunk : chunks) {
    if (changed.end <= chunk.begin) changed = disk.find_changed(chunk.begin);
    chunk.is_same = changed.begin >= chunk.begin + chunk.size && is_kept(chunk.id);
  }
}

void ItemReader::find_equal(formats::Disk& disk, std::vector<OldChunk>& chunks) {
  std::vector<base::Buffer> bytes;
  std::vector<base::Bytes> views;
  for (const auto& chunk : chunks) {
    auto& here = bytes.emplace_back(static_cast<std::size_t>(chunk.size));
    disk.read(chunk.begin, here);
    views.emplace_back(here);
  }
  std::vector<ObjectId> ids(chunks.size());
  base::hash_blobs(format_, views, ids);
  for (std::size_t i = 0; i < chunks.size(); ++i)
    chunks[i].is_same = ids[i] == chunks[i].id && adder_->has(ids[i]);
}

void ItemReader::emit(Event::Type type, base::Bytes bytes, Grouping grouping) {
  parcel_.events.push_back({type, {}, bytes.size(), grouping});
  std::copy(bytes.begin(), bytes.end(), parcel_.bytes.room(bytes.size()).begin());
  parcel_.bytes.add(bytes.size());
}

void ItemReader::flush() {
  name();
  if (!storing_) {  // names are all that was wanted
    std::erase_if(parcel_.events, [](const Event& event) { return event.type != Event::Type::done; });
    parcel_.bytes = {};
  }
  if (!channel_->send(std::exchange(parcel_, {}))) throw Abandoned{};
  begin_parcel();
}

void ItemReader::begin_parcel() {
  parcel_ = {};
  named_ = named_bytes_ = 0;
}

void ItemReader::name() {
  std::vector<base::Bytes> contents;
  const base::Bytes bytes = parcel_.bytes;
  std::size_t at = named_bytes_;
  for (std::size_t i = named_; i < parcel_.events.size(); ++i) {
    const auto& event = parcel_.events[i];
    const auto size = static_cast<std::size_t>(event.size);
    if (event.type == Event::Type::content) contents.push_back(bytes.subspan(at - size, size));
    if (event.type <= Event::Type::skeleton) {
      contents.push_back(bytes.subspan(at, size));
      at += size;
    }
    at += event.gap;
  }
  std::vector<ObjectId> ids(contents.size());
  bool all = true;
  try {
    base::hash_blobs(format_, contents, ids);
  } catch (const Error&) {
    all = false;  // one of them; which, has to be seen
  }
  base::ObjectHasher one(format_);
  std::exception_ptr failure;
  std::size_t next = 0;
  ObjectId last;
  const std::size_t begin = std::exchange(named_, parcel_.events.size());
  named_bytes_ = parcel_.bytes.size();
  for (std::size_t i = begin; i < parcel_.events.size(); ++i) {
    auto& event = parcel_.events[i];
    if (event.type == Event::Type::done) {
      if (failure) event.item->failure = std::exchange(failure, nullptr);
      if (event.item->failure) event.item->content.reset();
      auto& content = event.item->content;
      const auto kind = event.item->kind;
      const bool is_named = kind == IngestItem::Kind::file || kind == IngestItem::Kind::tar;
      if (content && content->blob == ObjectId() && is_named) content->blob = last;
    } else if (event.type != Event::Type::hole && event.type != Event::Type::kept &&
               event.type != Event::Type::slice) {
      try {
        event.id = last = all ? ids[next] : one.hash(contents[next]);
      } catch (const Error&) {
        if (event.type != Event::Type::content) event.type = Event::Type::refused;
        failure = std::current_exception();
      }
      ++next;
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace vat::internal
