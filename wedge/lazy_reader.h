// Reads ranges of contents whose chunks may have to be fetched first.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/base/worker_pool.h"
#include "vat/blob_source.h"

namespace wedge {

/// Chunks are proven and kept in memory, the last used first; several readers of one wait for one fetch.
/// Whoever reads on is read ahead for. Thread-safety: any member from any thread.
class LazyReader {
 public:
  struct Options {
    std::size_t memory = std::size_t{64} << 20;  ///< bytes of chunks
    /// Bytes a reader in order is read ahead for; at first fewer: those it has read, over `caution`.
    std::uint64_t ahead = std::uint64_t{8} << 20;
    std::uint64_t caution = 1;
    unsigned threads = 16;  ///< that fetch and decode; most of them wait
    /// Told, on any thread, of each chunk that a read asks for; not of what is read ahead. May be empty.
    std::function<void(const base::ObjectId&)> on_touch = {};
  };
  /// `source` outlives it.
  LazyReader(vat::BlobSource& source, const Options& options);
  ~LazyReader();
  LazyReader(const LazyReader&) = delete;
  LazyReader& operator=(const LazyReader&) = delete;

  class File;
  using FilePtr = std::shared_ptr<File>;  // shared: by those who read it, and with jobs under way
  /// What a content is made of; without a recipe it is stored as one blob.
  struct Made {
    std::optional<base::ObjectId> blob, recipe;
  };
  /// Nothing is read before the first read(), and `made` not asked; it is asked on another thread.
  [[nodiscard]] FilePtr open(std::uint64_t size, std::function<Made()> made);
  /// Bytes from `offset` on, as many as fit and there are; the count. `is_over` is asked now and then while
  /// it waits; then busy is thrown. Else throws what reading the chunks throws; the next read tries again.
  [[nodiscard]] std::size_t read(const FilePtr& file, std::uint64_t offset, base::MutableBytes bytes,
                                 const std::function<bool()>& is_over = {});

  /// The chunks that a part of a file is made of, each once. Throws as read().
  [[nodiscard]] std::vector<base::ObjectId> chunks_at(const FilePtr& file, std::uint64_t offset,
                                                      std::uint64_t size);

  /// Bytes from an offset on that are all of a hole, or all not.
  struct Run {
    std::uint64_t end = 0;
    bool is_hole = false;
  };
  /// The run at `offset`, which lies in the file; it may be cut short. Reads no chunk; throws as read().
  [[nodiscard]] Run run_at(const FilePtr& file, std::uint64_t offset,
                           const std::function<bool()>& is_over = {});
  /// Bytes of it that are in no hole. Reads no chunk; throws as read().
  [[nodiscard]] std::uint64_t data_size(const FilePtr& file, const std::function<bool()>& is_over = {});

 private:
  using Chunk = std::shared_ptr<const base::Buffer>;  // shared: by readers, and with the memory
  using Coming = std::shared_future<Chunk>;
  struct Kept {
    base::ObjectId id;
    Coming chunk;
    std::size_t size;
  };

  struct Pieces;
  std::shared_ptr<const Pieces> pieces_of(const FilePtr& file, const std::function<bool()>& is_over);
  Coming want(const base::ObjectId& id, std::size_t size);
  void forget(const base::ObjectId& id);
  void decode_ahead(const File& file, const Pieces& pieces, std::uint64_t end, std::uint64_t size);
  void read_ahead(File& file, const Pieces& pieces, std::uint64_t end, std::uint64_t size);

  vat::BlobSource& source_;
  const Options options_;
  std::mutex mutex_;      ///< guards what follows
  std::list<Kept> kept_;  ///< the last used first; some are still coming
  std::unordered_map<base::ObjectId, std::list<Kept>::iterator> by_id_;
  std::size_t kept_size_ = 0;
  base::WorkerPool pool_;  // last: uses the rest
};

}  // namespace wedge
