// One worker reads, cuts and hashes one unit (a run of items) at a time and sends parcels down the unit's
// channel; the calling thread takes the channels in the order of the units, so that storing has one order
// however workers race. A channel holds a bounded number of bytes. The unit being taken always has a
// worker, so nobody waits in a ring.
#include "vat/ingest.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/tar/tar_layout.h"
#include "formats/text/recipe.h"
#include "vat/content.h"
#include "vat/internal/image_cutter.h"
#include "vat/internal/stream_cutter.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::BlobKind;
using formats::RecipeItem;

constexpr std::size_t kItemsPerUnit = 256;
constexpr std::size_t kParcelSize = std::size_t{2} << 20;
constexpr std::size_t kChannelSize = std::size_t{4} << 20;
constexpr std::size_t kMaxEvents = 4096;
constexpr std::uint64_t kMinMember = 128;  ///< bytes of a member that is not left in the skeleton
constexpr std::size_t kMaxSkeleton = std::size_t{64} << 10;  ///< bytes of one blob of it
constexpr std::size_t kReadSize = std::size_t{1} << 20;
static_assert(kReadSize >= std::size_t{1} << chunker::kMaxExponent);

/// Bytes that grow at the end, where files are read to without being made zero first.
class Bytes {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  operator base::Bytes() const noexcept { return {data_.get(), size_}; }  // NOLINT: as Buffer does
  /// `size` bytes behind the end, which add() then takes in.
  [[nodiscard]] base::MutableBytes room(std::size_t size) {
    if (size_ + size > capacity_) {
      capacity_ = std::max(size_ + size, kParcelSize + kReadSize);
      auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity_);
      std::copy_n(data_.get(), size_, larger.get());
      data_ = std::move(larger);
    }
    return {data_.get() + size_, size};
  }
  void add(std::size_t size) noexcept { size_ += size; }

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0, capacity_ = 0;
};

/// Something the storing thread has to do, in order.
struct Event {
  /// `content`: no more to do; all bytes before it, as many as it says, are named too.
  /// `kept`: a chunk that is stored, with its id and no bytes.
  /// `skeleton`: a blob with the bytes of a tar between members. `slice`: as many of its bytes, before it
  /// comes.
  enum class Type : std::uint8_t { whole, chunk, skeleton, refused, hole, kept, slice, content, done };
  Type type;
  ObjectId id;
  std::uint64_t size = 0;                      ///< of the content: bytes of the parcel, but for a hole
  Grouping grouping = Grouping::chunk;         ///< whole, chunk
  std::unique_ptr<IngestItem> item = nullptr;  ///< done
  std::size_t gap = 0;                         ///< bytes of the parcel after it that are nothing
};
struct Parcel {
  std::vector<Event> events;
  Bytes bytes;
  std::uint64_t read = 0;
};

/// The way from one worker to the storing thread.
class Channel {
 public:
  /// False if nobody wants it any more.
  bool send(Parcel parcel) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock,
                  [&] { return abandoned_ || held_ == 0 || held_ + parcel.bytes.size() <= kChannelSize; });
    if (abandoned_) return false;
    held_ += parcel.bytes.size();
    parcels_.push_back(std::move(parcel));
    changed_.notify_all();
    return true;
  }
  void close(std::exception_ptr failure) {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    failure_ = std::move(failure);
    changed_.notify_all();
  }
  /// nullopt at the end.
  std::optional<Parcel> receive() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || !parcels_.empty(); });
    if (parcels_.empty()) {
      if (failure_) std::rethrow_exception(failure_);
      return std::nullopt;
    }
    auto parcel = std::move(parcels_.front());
    parcels_.pop_front();
    held_ -= parcel.bytes.size();
    changed_.notify_all();
    return parcel;
  }
  [[nodiscard]] bool closed() {
    const std::lock_guard lock(mutex_);
    return closed_;
  }
  void abandon() {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Parcel> parcels_;
  std::size_t held_ = 0;
  bool closed_ = false, abandoned_ = false;
  std::exception_ptr failure_;
};

/// Thrown inside a worker whose channel was abandoned; never leaves it.
struct Abandoned {};

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

void hash_zeros(base::ObjectHasher& hasher, std::uint64_t count) {
  static constexpr std::array<std::byte, 65536> kZeros{};
  for (; count > 0; count -= std::min<std::uint64_t>(count, kZeros.size()))
    hasher.update({kZeros.data(), static_cast<std::size_t>(std::min<std::uint64_t>(count, kZeros.size()))});
}

/// Reads, cuts and names the items of one unit.
class Worker {
 public:
  /// `vat`: where it will be stored; nullptr: nowhere.
  Worker(const chunker::Parameters& parameters, base::ObjectFormat format, Vat* vat)
      : parameters_(parameters),
        format_(format),
        vat_(vat),
        storing_(vat != nullptr),
        hasher_(format),
        buffer_(kReadSize) {}

  void run(std::vector<std::unique_ptr<IngestItem>> items, Channel& channel) {
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

 private:
  Ingested read(int fd, IngestItem& item) {
    const auto& before = item.state;
    if (!S_ISREG(before.st_mode)) throw Error(Category::refused, "not a regular file");
    auto size = static_cast<std::uint64_t>(before.st_size);
    ObjectId id;
    if (item.kind == IngestItem::Kind::image || item.kind == IngestItem::Kind::named_image) {
      const auto disk = item.disk(fd);
      size = disk->size();
      id = item.base && storing_ ? read_like(*disk, item.kind, *item.base) : read_large(*disk, item.kind);
    } else if (const auto members = find_members(fd, size, item.kind); !members.empty()) {
      id = read_tar(fd, size, members);
    } else if (size <= parameters_.average_size()) {
      read_small(fd, size);
    } else if (storing_ && size <= kReadSize) {
      read_middle(fd, size);
    } else {
      id = read_large(*formats::open_raw_disk(fd), IngestItem::Kind::file);
    }
    if (!same_state(before, state_of(fd))) throw Error(Category::local, "changed while it was read");
    return {id, {}, size};
  }

  /// The id is set when the parcel goes.
  void read_small(int fd, std::uint64_t size) {
    parcel_.events.push_back({Event::Type::whole, {}, read_whole(fd, size).size(), Grouping::small_file});
  }

  /// Into the parcel.
  base::Bytes read_whole(int fd, std::uint64_t size) {
    // Some file systems say that files are empty which are not.
    const auto room = parcel_.bytes.room(std::max<std::size_t>(static_cast<std::size_t>(size), 1));
    // Not read(), which would wait if a fifo has taken the file's place.
    const std::size_t count = base::read_some_at(fd, 0, room);
    if (count != size) throw Error(Category::local, "changed while it was read");
    parcel_.bytes.add(count);
    parcel_.read += count;
    return room.subspan(0, count);
  }

  /// Of a tar that is worth cutting at them; else none.
  std::vector<formats::TarContent> find_members(int fd, std::uint64_t size, IngestItem::Kind kind) const {
    if (kind != IngestItem::Kind::tar || !storing_ || size <= parameters_.average_size()) return {};
    auto members = formats::find_tar_contents(base::reader_of(fd), size);
    if (members) std::erase_if(*members, [](const auto& member) { return member.size < kMinMember; });
    return members.value_or(std::vector<formats::TarContent>());
  }

  ObjectId read_tar(int fd, std::uint64_t size, const std::vector<formats::TarContent>& members) {
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

  void read_next(int fd, std::uint64_t& at, base::MutableBytes to) {
    if (!base::read_exact_at(fd, at, to)) throw Error(Category::local, "changed while it was read");
    hasher_.update(to);
    at += to.size();
    parcel_.read += to.size();
  }

  void emit_skeleton(base::Buffer& skeleton) {
    if (!skeleton.empty()) emit(Event::Type::skeleton, skeleton, Grouping::small_file);
    skeleton.clear();
  }

  /// In the pieces that a file of the same content is stored in.
  void read_member(int fd, std::uint64_t& at, std::uint64_t size) {
    if (size <= parameters_.average_size()) {
      const auto room = parcel_.bytes.room(static_cast<std::size_t>(size));
      read_next(fd, at, room);
      parcel_.bytes.add(room.size());
      parcel_.events.push_back({Event::Type::chunk, {}, size, Grouping::small_file});
      return;
    }
    internal::StreamCutter cutter(
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

  /// A file that fits into the parcel is cut where it lies.
  void read_middle(int fd, std::uint64_t size) {
    const auto bytes = read_whole(fd, size);
    auto& events = parcel_.events;
    internal::StreamCutter cutter(
        parameters_,
        [&](base::Bytes chunk) {
          events.push_back(
              {chunk.size() == size ? Event::Type::whole : Event::Type::chunk, {}, chunk.size()});
        },
        [&](std::uint64_t length) {
          events.push_back({Event::Type::hole, {}, length, {}, nullptr, static_cast<std::size_t>(length)});
        });
    const std::size_t before = events.size();
    cutter.feed_all(bytes);
    if (events.size() > before + 1 || events.back().type == Event::Type::hole)
      events.push_back({Event::Type::content, {}, size});
  }

  /// Returns the content's id, if it is to have one.
  ObjectId read_large(formats::Disk& disk, IngestItem::Kind kind) {
    const bool named = kind != IngestItem::Kind::image;
    if (named) hasher_.reset(disk.size());
    read_part(disk, {0, disk.size()}, kind, named);
    return named ? hasher_.finish() : ObjectId();
  }

  /// Cuts a part of a disk. `named`: its bytes are the next of what the hasher is to name.
  void read_part(formats::Disk& disk, const formats::Disk::Extent& part, IngestItem::Kind kind,
                 bool named = false) {
    if (part.begin == part.end) return;
    const bool image = kind != IngestItem::Kind::file;
    if (image && storing_ && known_ == nullptr) known_ = std::make_unique<internal::KnownBlocks>(*vat_);
    internal::ImageCutter cutter(
        parameters_, format_, image ? known_.get() : nullptr,
        {[&](base::Bytes chunk) {
           emit(chunk.size() == disk.size() && !image ? Event::Type::whole : Event::Type::chunk, chunk,
                image && chunk.size() >= internal::KnownBlocks::kBlock ? Grouping::single : Grouping::chunk);
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
          if (named) hash_zeros(hasher_, zeros);
          parcel_.read += zeros;
        });
    if (storing_) cutter.finish();
  }

  /// A chunk of the image that another is like.
  struct OldChunk {
    std::uint64_t begin, size;
    ObjectId id;
    bool is_same = false;
  };

  /// An image that is like another: chunks that are the same are kept, what lies between them is cut anew.
  /// Holes always are, as what is beside them may add to them.
  ObjectId read_like(formats::Disk& disk, IngestItem::Kind kind, const ImageBase& base) {
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
        [&](std::uint64_t zeros) { hash_zeros(hasher_, zeros); });
    return hasher_.finish();
  }

  static void find_unchanged(formats::Disk& disk, std::vector<OldChunk>& chunks) {
    formats::Disk::Extent changed{0, 0};
    for (auto& chunk : chunks) {
      if (changed.end <= chunk.begin) changed = disk.find_changed(chunk.begin);
      chunk.is_same = changed.begin >= chunk.begin + chunk.size;
    }
  }

  /// What the vat has lost counts as new.
  void find_equal(formats::Disk& disk, std::vector<OldChunk>& chunks) {
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
      chunks[i].is_same = ids[i] == chunks[i].id && vat_->find(ids[i]).has_value();
  }

  void emit(Event::Type type, base::Bytes bytes, Grouping grouping) {
    parcel_.events.push_back({type, {}, bytes.size(), grouping});
    std::copy(bytes.begin(), bytes.end(), parcel_.bytes.room(bytes.size()).begin());
    parcel_.bytes.add(bytes.size());
  }

  void flush() {
    name();
    if (!storing_) {  // names are all that was wanted
      std::erase_if(parcel_.events, [](const Event& event) { return event.type != Event::Type::done; });
      parcel_.bytes = {};
    }
    if (!channel_->send(std::exchange(parcel_, {}))) throw Abandoned{};
    begin_parcel();
  }

  void begin_parcel() {
    parcel_ = {};
    named_ = named_bytes_ = 0;
  }

  /// Gives what is in the parcel its ids, all at once, and small files theirs. What is refused fails its
  /// item; if that is still being read, by throwing.
  void name() {
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

  chunker::Parameters parameters_;
  base::ObjectFormat format_;
  Vat* vat_;
  bool storing_;
  base::ObjectHasher hasher_;
  base::Buffer buffer_;
  std::unique_ptr<internal::KnownBlocks> known_;  ///< once an image is read
  Channel* channel_ = nullptr;
  Parcel parcel_;
  std::size_t named_ = 0;        ///< events of the parcel that have their ids …
  std::size_t named_bytes_ = 0;  ///< … and the bytes they are of
};

/// Does what parcels say, on the one storing thread.
class Storer {
 public:
  Storer(base::ObjectFormat format, Adder* adder, const chunker::Parameters& parameters)
      : format_(format), adder_(adder), parameters_(parameters) {}

  void take(Parcel& parcel, const IngestCallbacks& callbacks) {
    base::Bytes bytes(parcel.bytes);
    for (auto& event : parcel.events) {
      const bool has_bytes = event.type < Event::Type::hole;
      const auto content = bytes.subspan(0, has_bytes ? static_cast<std::size_t>(event.size) : 0);
      bytes = bytes.subspan(content.size() + event.gap);
      switch (event.type) {
        case Event::Type::whole:
          (void)adder_->put(event.id, BlobKind::data, event.grouping, content);
          break;
        case Event::Type::chunk:
          (void)adder_->put(event.id, BlobKind::data, event.grouping, content);
          add({RecipeItem::Type::chunk, event.size, event.id, 0});
          break;
        case Event::Type::skeleton:
          (void)adder_->put(event.id, BlobKind::skeleton, Grouping::small_file, content);
          end_skeleton(event.id);
          break;
        case Event::Type::slice:
          pending_.push_back({RecipeItem::Type::slice, event.size, {}, slice_at_});
          slice_at_ += event.size;
          break;
        case Event::Type::refused:
        case Event::Type::content:
          break;
        case Event::Type::hole:
          add({RecipeItem::Type::hole, event.size, {}, 0});
          break;
        case Event::Type::kept:
          add({RecipeItem::Type::chunk, event.size, event.id, 0});
          break;
        case Event::Type::done:
          finish(*event.item);
          callbacks.done(std::move(event.item));
          break;
      }
    }
    read_ += parcel.read;
    if (callbacks.progress) callbacks.progress(read_);
  }

 private:
  formats::RecipeWriter& recipe() {
    if (!recipe_) recipe_.emplace(format_, adder_->put_text(BlobKind::recipe));
    return *recipe_;
  }

  void finish(IngestItem& item) {
    if (item.content && (item.kind == IngestItem::Kind::image || item.kind == IngestItem::Kind::named_image))
      (void)recipe();
    if (recipe_ && item.content) {
      auto& [blob, its_recipe, size] = *item.content;
      const bool named = blob != ObjectId();
      its_recipe = recipe_->finish({size, parameters_.id(), named ? std::optional(blob) : std::nullopt});
      if (named) adder_->claim(blob, *its_recipe, size);
    }
    recipe_.reset();
    pending_.clear();
    slice_at_ = 0;
  }

  /// Lines wait for the skeleton that one before them is a slice of.
  void add(const RecipeItem& item) {
    if (pending_.empty())
      recipe().add(item);
    else
      pending_.push_back(item);
  }
  void end_skeleton(const ObjectId& id) {
    for (auto& item : std::exchange(pending_, {})) {
      if (item.type == RecipeItem::Type::slice) item.id = id;
      recipe().add(item);
    }
    slice_at_ = 0;
  }

  base::ObjectFormat format_;
  Adder* adder_;  ///< nullptr: names are all that is wanted, and no event but done comes
  const chunker::Parameters& parameters_;
  std::optional<formats::RecipeWriter> recipe_;  ///< of the file whose parts are coming in
  std::vector<RecipeItem> pending_;              ///< lines of it that wait
  std::uint64_t slice_at_ = 0;                   ///< bytes of the skeleton that comes next
  std::uint64_t read_ = 0;
};

/// Units in the order they were claimed.
class Units {
 public:
  /// Workers may have begun `ahead` units before the storing thread takes them.
  Units(const std::function<std::unique_ptr<IngestItem>()>& next, std::size_t ahead)
      : next_(next), ahead_(ahead) {}

  /// The next items and the channel for them; nullptr at the end. For workers.
  std::shared_ptr<Channel> claim(std::vector<std::unique_ptr<IngestItem>>& items) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || ended_ || channels_.size() < ahead_; });
    if (stopped_ || ended_) return nullptr;
    auto channel =
        std::make_shared<Channel>();  // shared: worker and storing thread each outlive the other's interest
    try {
      while (items.size() < kItemsPerUnit) {
        auto item = next_();
        if (item == nullptr) {
          ended_ = true;
          break;
        }
        items.push_back(std::move(item));
      }
    } catch (...) {
      ended_ = true;
      items.clear();
      channel->close(std::current_exception());
    }
    changed_.notify_all();
    if (items.empty() && !channel->closed()) return nullptr;  // nothing would ever come down this channel
    channels_.push_back(channel);
    return items.empty() ? nullptr : channel;
  }

  /// For the storing thread; nullptr when all units are done.
  std::shared_ptr<Channel> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !channels_.empty() || ended_; });
    if (channels_.empty()) return nullptr;
    auto channel = channels_.front();
    channels_.pop_front();
    changed_.notify_all();
    return channel;
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
    for (const auto& channel : channels_) channel->abandon();
  }

 private:
  const std::function<std::unique_ptr<IngestItem>()>& next_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t ahead_;
  std::deque<std::shared_ptr<Channel>> channels_;
  bool ended_ = false, stopped_ = false;
};

void work(Units& units, Worker&& worker) {
  while (true) {
    std::vector<std::unique_ptr<IngestItem>> items;
    const auto channel = units.claim(items);
    if (channel == nullptr) return;
    try {
      worker.run(std::move(items), *channel);
      channel->close(nullptr);
    } catch (const Abandoned&) {
      return;
    } catch (...) {
      channel->close(std::current_exception());
    }
  }
}

}  // namespace

void ingest(base::ObjectFormat format, Adder* adder, const chunker::Parameters& parameters, unsigned threads,
            const IngestCallbacks& callbacks) {
  if (threads == 0) threads = std::max(1U, std::thread::hardware_concurrency());
  Units units(callbacks.next, threads + 2);
  Storer storer(format, adder, parameters);
  std::vector<std::jthread> workers;
  std::shared_ptr<Channel> channel;
  try {
    for (unsigned i = 0; i < threads; ++i) {
      try {
        workers.emplace_back(
            [&] { work(units, Worker(parameters, format, adder != nullptr ? &adder->vat() : nullptr)); });
      } catch (const std::system_error&) {
        if (workers.empty()) throw Error(Category::local, "cannot start a thread");
        break;  // those that are there do
      }
    }
    while ((channel = units.take()) != nullptr)
      while (auto parcel = channel->receive()) storer.take(*parcel, callbacks);
  } catch (...) {
    units.stop();
    if (channel != nullptr) channel->abandon();
    throw;
  }
}

std::optional<base::UniqueFd> FileItem::open() {
  auto fd = base::open_at(AT_FDCWD, path_, O_RDONLY | O_NONBLOCK);
  state = state_of(fd.get());
  return fd;
}

std::optional<Error> FileItem::find_failure() const {
  if (!failure) return std::nullopt;
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return std::string_view(error.what()).starts_with(path_) ? error : base::prefixed(path_, error);
  }
}

std::unique_ptr<formats::Disk> FileItem::disk(int fd) {
  return open_disk ? open_disk(fd) : IngestItem::disk(fd);
}

namespace {

Ingested ingest_one(std::unique_ptr<FileItem> item, Adder& adder, const chunker::Parameters& parameters,
                    const std::function<void(std::uint64_t)>& progress) {
  std::unique_ptr<IngestItem> done;
  ingest(adder.vat().object_format(), &adder, parameters, 1,
         {[&] { return std::move(item); },
          [&](std::unique_ptr<IngestItem> finished) { done = std::move(finished); }, progress});
  if (const auto failure = static_cast<const FileItem&>(*done).find_failure()) throw Error(*failure);
  return *done->content;
}

}  // namespace

Ingested ingest_file(const std::string& path, Adder& adder, const chunker::Parameters& parameters,
                     const std::function<void(std::uint64_t)>& progress) {
  return ingest_one(std::make_unique<FileItem>(path, IngestItem::Kind::tar), adder, parameters, progress);
}

IngestedImage ingest_image(const std::string& path, Adder& adder, const chunker::Parameters& parameters,
                           const ImageOptions& options, const std::function<void(std::uint64_t)>& progress) {
  auto item = std::make_unique<FileItem>(
      path, options.name_content ? IngestItem::Kind::named_image : IngestItem::Kind::image);
  item->open_disk = options.open_disk;
  item->base = options.base;
  const auto stored = ingest_one(std::move(item), adder, parameters, progress);
  return {*stored.recipe, options.name_content ? std::optional(stored.blob) : std::nullopt, stored.size};
}

Ingested ingest_stream(Vat& vat, const chunker::Parameters& parameters, const AddOptions& options, int fd,
                       const std::function<void(std::uint64_t)>& progress) {
  base::ObjectHasher hasher(vat.object_format());
  std::vector<RecipeItem> first;  // until it is clear that there is more than one chunk
  base::Buffer only;
  Ingested result;
  std::optional<ObjectId> parts;  // a recipe without content id, to read the chunks back by
  const auto store = [&](Adder& adder, const auto& read_items) {
    formats::RecipeWriter recipe(vat.object_format(), adder.put_text(BlobKind::recipe));
    read_items(recipe);
    return recipe.finish({recipe.size(), parameters.id(),
                          result.blob == ObjectId() ? std::nullopt : std::optional(result.blob)});
  };
  {
    Adder adder(vat, options);
    base::Buffer buffer(kReadSize + 1);
    std::size_t count = base::read_some(fd, {buffer.data(), parameters.average_size() + 1});
    result.size = count;
    if (count <= parameters.average_size()) {
      const base::Bytes bytes(buffer.data(), count);
      result.blob = hasher.hash(bytes);
      (void)adder.put(result.blob, BlobKind::data, Grouping::small_file, bytes);
      (void)adder.finish();
      return result;
    }
    std::size_t items = 0;
    ObjectId last;
    parts = store(adder, [&](formats::RecipeWriter& recipe) {
      internal::StreamCutter cutter(
          parameters,
          [&](base::Bytes chunk) {
            last = hasher.hash(chunk);
            (void)adder.put(last, BlobKind::data, Grouping::chunk, chunk);
            recipe.add({RecipeItem::Type::chunk, chunk.size(), last, 0});
            ++items;
          },
          [&](std::uint64_t length) {
            recipe.add({RecipeItem::Type::hole, length, {}, 0});
            items += 2;
          });
      while (count > 0) {
        cutter.feed(base::Bytes(buffer).subspan(0, count));
        count = base::read_some(fd, buffer);
        result.size += count;
        if (progress) progress(result.size);
      }
      cutter.finish();
    });
    (void)adder.finish();
    if (items == 1) {
      result.blob = last;
      return result;
    }
  }
  // Second pass: the chunks, proven, give the content id; then the recipe is stored again with it.
  hasher.reset(result.size);
  stream_recipe(vat, *parts, {}, [&](base::Bytes bytes) { hasher.update(bytes); });
  result.blob = hasher.finish();
  Adder adder(vat, options);
  result.recipe = store(adder, [&](formats::RecipeWriter& recipe) {
    formats::RecipeReader reader(vat.read(*parts), vat.object_format(),
                                 [&](const ObjectId& id) { return vat.read(id); });
    for (RecipeItem item; reader.next(item);) recipe.add(item);
  });
  adder.claim(result.blob, *result.recipe, result.size);
  (void)adder.finish();
  return result;
}

}  // namespace vat
