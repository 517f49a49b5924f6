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
#include "vat/internal/item_reader.h"
#include "vat/internal/stream_cutter.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::BlobKind;
using formats::RecipeItem;
using internal::Event;
using internal::kReadSize;
using internal::Parcel;
using internal::ParcelQueue;

constexpr std::size_t kItemsPerUnit = 256;

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

  /// The next items and the channel for them; nullptr at the end. What is thrown here ends it: take() throws
  /// that after what was claimed before. For workers.
  std::shared_ptr<ParcelQueue> claim(std::vector<std::unique_ptr<IngestItem>>& items) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || ended_ || channels_.size() < ahead_; });
    if (stopped_ || ended_) return nullptr;
    try {
      return claim_next(items);
    } catch (...) {  // still under the lock: nobody else may ask for more
      failure_ = std::current_exception();
      ended_ = true;
      changed_.notify_all();
      return nullptr;
    }
  }

  /// For the storing thread; nullptr when all units are done.
  std::shared_ptr<ParcelQueue> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !channels_.empty() || ended_; });
    if (channels_.empty() && failure_) std::rethrow_exception(failure_);
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
  std::shared_ptr<ParcelQueue> claim_next(std::vector<std::unique_ptr<IngestItem>>& items) {
    auto channel = std::make_shared<ParcelQueue>();  // shared: worker and storing thread each outlive the
                                                     // other's interest
    while (items.size() < kItemsPerUnit) {
      auto item = next_();
      if (item == nullptr) {
        ended_ = true;
        break;
      }
      items.push_back(std::move(item));
    }
    if (items.empty()) {  // nothing would ever come down this channel
      changed_.notify_all();
      return nullptr;
    }
    channels_.push_back(channel);
    changed_.notify_all();
    return channel;
  }

  const std::function<std::unique_ptr<IngestItem>()>& next_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t ahead_;
  std::deque<std::shared_ptr<ParcelQueue>> channels_;
  bool ended_ = false, stopped_ = false;
  std::exception_ptr failure_;
};

void work(Units& units, internal::ItemReader& worker) {
  while (true) {
    std::vector<std::unique_ptr<IngestItem>> items;
    const auto channel = units.claim(items);
    if (channel == nullptr) return;
    try {
      worker.run(std::move(items), *channel);
      channel->close(nullptr);
    } catch (const internal::Abandoned&) {
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
  std::shared_ptr<ParcelQueue> channel;
  try {
    for (unsigned i = 0; i < threads; ++i) {
      try {
        // made here, where it can be told if there is no memory for it
        auto reader = std::make_shared<internal::ItemReader>(parameters, format, adder);
        workers.emplace_back([&units, reader] { work(units, *reader); });
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
  if (::fstat(fd.get(), &state) != 0) base::throw_errno("stat", errno);
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
                     const std::function<void(std::uint64_t)>& progress, std::uint64_t max_holes) {
  auto item = std::make_unique<FileItem>(path, IngestItem::Kind::tar);
  item->max_holes = max_holes;
  return ingest_one(std::move(item), adder, parameters, progress);
}

IngestedImage ingest_image(const std::string& path, Adder& adder, const chunker::Parameters& parameters,
                           const ImageOptions& options, const std::function<void(std::uint64_t)>& progress) {
  auto item = std::make_unique<FileItem>(
      path, options.name_content ? IngestItem::Kind::named_image : IngestItem::Kind::image);
  item->open_disk = options.open_disk;
  item->base = options.base;
  item->max_holes = options.max_holes;
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
