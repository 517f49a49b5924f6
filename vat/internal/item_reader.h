// Reads, cuts and names files, tars and images for ingest().
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "chunker/chunker.h"
#include "formats/base/bytes.h"
#include "formats/base/hash.h"
#include "formats/disk/disk.h"
#include "formats/tar/tar_layout.h"
#include "vat/ingest.h"
#include "vat/internal/known_blocks.h"
#include "vat/internal/parcel.h"

namespace vat::internal {

/// Thrown by run() if nobody takes what comes down the channel any more.
struct Abandoned {};

/// One worker of ingest(). One thread at a time.
class ItemReader {
 public:
  /// `adder`: who will store it; nullptr: nobody.
  ItemReader(const chunker::Parameters& parameters, base::ObjectFormat format, const Adder* adder);
  /// Sends all there is to do about the items. What fails an item is said in it.
  void run(std::vector<std::unique_ptr<IngestItem>> items, ParcelQueue& channel);

 private:
  Ingested read(int fd, IngestItem& item);
  /// The id is set when the parcel goes.
  void read_small(int fd, std::uint64_t size);
  /// Into the parcel.
  base::Bytes read_whole(int fd, std::uint64_t size);
  /// Of a tar that is worth cutting at them; else none.
  std::vector<formats::TarContent> find_members(int fd, std::uint64_t size, IngestItem::Kind kind) const;
  base::ObjectId read_tar(int fd, std::uint64_t size, const std::vector<formats::TarContent>& members);
  void read_next(int fd, std::uint64_t& at, base::MutableBytes to);
  void emit_skeleton(base::Buffer& skeleton);
  /// In the pieces that a file of the same content is stored in.
  void read_member(int fd, std::uint64_t& at, std::uint64_t size);
  /// A file that fits into the parcel is cut where it lies.
  void read_middle(int fd, std::uint64_t size);
  /// Returns the content's id, if it is to have one.
  base::ObjectId read_large(formats::Disk& disk, IngestItem::Kind kind);
  /// Cuts a part of a disk. `named`: its bytes are the next of what the hasher is to name.
  void read_part(formats::Disk& disk, const formats::Disk::Extent& part, IngestItem::Kind kind,
                 bool named = false);
  /// A chunk of the image that another is like.
  struct OldChunk {
    std::uint64_t begin, size;
    base::ObjectId id;
    bool is_same = false;
  };
  /// An image that is like another: chunks that are the same are kept, what lies between them is cut anew.
  /// Holes always are, as what is beside them may add to them.
  base::ObjectId read_like(formats::Disk& disk, IngestItem::Kind kind, const ImageBase& base);
  /// Whether a chunk of the disk below may be relied on.
  [[nodiscard]] bool is_kept(const base::ObjectId& id) const;
  void find_unchanged(formats::Disk& disk, std::vector<OldChunk>& chunks);
  /// What the vat has lost counts as new.
  void find_equal(formats::Disk& disk, std::vector<OldChunk>& chunks);
  void emit(Event::Type type, base::Bytes bytes, Grouping grouping);
  void flush();
  void begin_parcel();
  /// Gives what is in the parcel its ids, all at once, and small files theirs. What is refused fails its
  /// item; if that is still being read, by throwing.
  void name();

  chunker::Parameters parameters_;
  base::ObjectFormat format_;
  const Adder* adder_;
  bool storing_;
  base::ObjectHasher hasher_;
  base::Buffer buffer_;
  std::optional<KnownBlocks> known_;  ///< of the vat
  ParcelQueue* channel_ = nullptr;
  Parcel parcel_;
  std::size_t named_ = 0;        ///< events of the parcel that have their ids …
  std::size_t named_bytes_ = 0;  ///< … and the bytes they are of
};

}  // namespace vat::internal
