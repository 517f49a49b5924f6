// From files to blobs: reads, cuts, names and stores the content of many files, in parallel, with one order.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "formats/base/error.h"
#include "formats/base/object_id.h"
#include "formats/base/unique_fd.h"
#include "formats/disk/disk.h"
#include "vat/adder.h"
#include "vat/vat.h"

namespace vat {

/// Content that was stored.
struct Ingested {
  base::ObjectId blob;                   ///< whole-content id; none (all zero) for an image that is not named
  std::optional<base::ObjectId> recipe;  ///< if it is chunked
  std::uint64_t size = 0;
};

/// An image that another is like.
struct ImageBase {
  BlobSource* source = nullptr;  ///< of its recipe; outlives what uses it
  base::ObjectId recipe;
  /// It is the disk below: what the disk does not have itself is the same, and not read.
  bool is_below = false;
};

/// Bytes of holes of one file that are hashed without being asked.
inline constexpr std::uint64_t kMaxHoles = std::uint64_t{64} << 30;

/// One thing to ingest. Belongs to ingest() until it is handed to `done`.
class IngestItem {
 public:
  virtual ~IngestItem() = default;
  IngestItem(const IngestItem&) = delete;
  IngestItem& operator=(const IngestItem&) = delete;

  /// Opens the content and sets `state`, or says there is none (nullopt: a directory, say). Called once, from
  /// any thread. What it throws, as what reading throws, becomes `failure`.
  [[nodiscard]] virtual std::optional<base::UniqueFd> open() = 0;

  std::optional<Ingested> content;  ///< set if all went well; by open() itself if it knows it without reading
  /// Of the file when it was opened, or just before, and, if nothing failed, until it was read.
  struct stat state {};
  std::exception_ptr failure;  ///< base::Error; local "changed while it was read" among them

  /// What it is stored as. An image has a recipe in any case, each of its chunks gets a group of its own, and
  /// its content gets an id only if it is to be named.
  /// A tar is cut at its members, so that they are found in it; what is none is stored as a file.
  enum class Kind : std::uint8_t { file, image, named_image, tar };
  Kind kind = Kind::file;
  /// What has more of holes is refused if its content is to be named: a hole costs nothing to state, and
  /// hashing it costs what data costs.
  std::uint64_t max_holes = kMaxHoles;

  /// What is to be stored of an image: by default the bytes of the file that open() gave, which outlives it.
  [[nodiscard]] virtual std::unique_ptr<formats::Disk> disk(int fd) { return formats::open_raw_disk(fd); }
  /// The recipe of an image that is much the same: what is at the same place in both is cut as it is there.
  std::optional<ImageBase> base;

 protected:
  IngestItem() = default;
};

/// A file by its path.
class FileItem final : public IngestItem {
 public:
  explicit FileItem(std::string path, Kind as = Kind::file) : path_(std::move(path)) { kind = as; }
  [[nodiscard]] std::optional<base::UniqueFd> open() override;
  [[nodiscard]] std::unique_ptr<formats::Disk> disk(int fd) override;
  std::function<std::unique_ptr<formats::Disk>(int fd)> open_disk;  ///< see ImageOptions
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// The failure, which names the path; nullopt if there is none.
  [[nodiscard]] std::optional<base::Error> find_failure() const;

 private:
  std::string path_;
};

struct IngestCallbacks {
  /// The next item, nullptr at the end. Called by any thread, one call at a time. Throwing ends the whole
  /// ingest.
  std::function<std::unique_ptr<IngestItem>()> next;
  /// Each item, in the order of next(), on the calling thread.
  std::function<void(std::unique_ptr<IngestItem>)> done;
  /// Bytes read so far, now and then, on the calling thread; may be empty.
  std::function<void(std::uint64_t)> progress;
};

/// Ingests everything next() yields. What is stored, and in which order, depends on the items only. A file
/// that changes while it is read fails; nothing mixed is ever named. Without an adder content is only named,
/// not stored, and gets no recipe.
void ingest(base::ObjectFormat format, Adder* adder, const chunker::Parameters& parameters, unsigned threads,
            const IngestCallbacks& callbacks);

/// Ingests one file; a tar as such. Throws what fails, naming the path.
[[nodiscard]] Ingested ingest_file(const std::string& path, Adder& adder,
                                   const chunker::Parameters& parameters,
                                   const std::function<void(std::uint64_t)>& progress,
                                   std::uint64_t max_holes = kMaxHoles);

/// A disk image that was stored.
struct IngestedImage {
  base::ObjectId recipe;               ///< its identity
  std::optional<base::ObjectId> blob;  ///< whole-content id, if it was asked for
  std::uint64_t size = 0;
};

struct ImageOptions {
  bool name_content = false;            ///< hash all of it too, holes as zeros …
  std::uint64_t max_holes = kMaxHoles;  ///< … if there are no more bytes of them
  std::optional<ImageBase> base;
  /// Gives the disk that is in the file; empty: the file is it. What it says to be malformed fails.
  std::function<std::unique_ptr<formats::Disk>(int fd)> open_disk;
};

/// Ingests a disk image: holes cost nothing, each chunk gets a group of its own. With a base, what is new is
/// about what differs from it. Throws what fails, naming
/// the path.
[[nodiscard]] IngestedImage ingest_image(const std::string& path, Adder& adder,
                                         const chunker::Parameters& parameters, const ImageOptions& options,
                                         const std::function<void(std::uint64_t)>& progress);

/// Stores a stream of unknown length, such as a pipe, in bounded memory: chunks go in as they come, the
/// content id is found by reading them back. Finishes adders of its own.
[[nodiscard]] Ingested ingest_stream(Vat& vat, const chunker::Parameters& parameters,
                                     const AddOptions& options, int fd,
                                     const std::function<void(std::uint64_t)>& progress);

}  // namespace vat
