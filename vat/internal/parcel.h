// What a worker of ingest() hands to the storing thread, and the way there.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "vat/adder.h"
#include "vat/ingest.h"

namespace vat::internal {

constexpr std::size_t kParcelSize = std::size_t{2} << 20;       ///< bytes from which on a parcel goes
constexpr std::size_t kParcelQueueSize = std::size_t{4} << 20;  ///< bytes that wait in one queue, at most
constexpr std::size_t kReadSize = std::size_t{1} << 20;         ///< bytes that are read at a time

/// Bytes that grow at the end, where files are read to without being made zero first.
class ParcelBytes {
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
  base::ObjectId id;
  std::uint64_t size = 0;                      ///< of the content: bytes of the parcel, but for a hole
  Grouping grouping = Grouping::chunk;         ///< whole, chunk
  std::unique_ptr<IngestItem> item = nullptr;  ///< done
  std::size_t gap = 0;                         ///< bytes of the parcel after it that are nothing
};
struct Parcel {
  std::vector<Event> events;
  ParcelBytes bytes;
  std::uint64_t read = 0;
};

/// The way from one worker to the storing thread.
class ParcelQueue {
 public:
  /// False if nobody wants it any more.
  bool send(Parcel parcel) {
    std::unique_lock lock(mutex_);
    changed_.wait(
        lock, [&] { return abandoned_ || held_ == 0 || held_ + parcel.bytes.size() <= kParcelQueueSize; });
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

}  // namespace vat::internal
