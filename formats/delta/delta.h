// Deltas: what one root needs and another lacks, compressed against what the other has. docs/formats/delta.md
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/compression/zstd.h"
#include "formats/pack/pack.h"

namespace formats {

inline constexpr std::size_t kMaxDeltaPrefix = std::size_t{8}
                                               << 20;  ///< content bytes that a group may refer to
inline constexpr std::size_t kMaxPrefixBlobs = std::size_t{1} << 16;

/// Between which roots a delta is.
struct DeltaHead {
  base::ObjectId from, to;
  std::uint64_t missing = 0;  ///< bytes of the groups that whoever has `from` would fetch without it
};
/// From the first bytes of a delta; nullopt if they are none, or of another object format or version.
[[nodiscard]] std::optional<DeltaHead> find_delta_head(base::ObjectFormat format, base::Bytes bytes);
inline constexpr std::size_t kMaxDeltaHead = 1024;  ///< bytes, with its frame

/// Writes a delta as a stream of bytes. One thread at a time.
class DeltaWriter {
 public:
  DeltaWriter(base::ObjectFormat format, const DeltaHead& head, int level, base::ByteSink sink);
  /// A group of blobs, back to back in `content`; `prefix`: the content of the blobs `prefix_ids` of the
  /// other root, back to back.
  void add(const std::vector<base::ObjectId>& prefix_ids, base::Bytes prefix, std::vector<PackedBlob> blobs,
           base::Bytes content);
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

 private:
  void emit(base::Bytes bytes);
  int level_;
  base::ByteSink sink_;
  std::uint64_t size_ = 0;
};

/// One group of a delta, as it was read.
struct DeltaGroup {
  std::vector<base::ObjectId> prefix;  ///< blobs whose content, back to back, it is compressed against
  base::Buffer bytes;                  ///< header and frame, as in a pack
};

/// Reads a delta from its start. Memory: a group and its prefix. One thread at a time.
class DeltaReader {
 public:
  /// Appends the next bytes of the file to the buffer; false at its end.
  using ReadMore = std::function<bool(base::Buffer&)>;

  /// Throws refused unless it leads from `from` to `to`, corrupt if it is damaged.
  DeltaReader(base::ObjectFormat format, const base::ObjectId& from, const base::ObjectId& to, ReadMore more);
  /// False at the end. Throws corrupt.
  [[nodiscard]] bool next(DeltaGroup& group);

 private:
  bool want(std::size_t size);
  [[nodiscard]] base::Bytes rest() const { return base::Bytes(buffer_).subspan(at_); }
  base::Bytes frame(std::uint32_t magic, std::size_t max_size);

  base::ObjectFormat format_;
  ReadMore more_;
  base::Buffer buffer_;
  std::size_t at_ = 0;
};

/// Decodes a group. Throws corrupt; ids are yet to be told (name_blobs()).
[[nodiscard]] DecodedGroup decode_delta_group(const DeltaGroup& group, base::Bytes prefix,
                                              ZstdDecompressor& decompressor);

}  // namespace formats
