// Packs: immutable files that hold many blobs and stay valid .zst files. Layout: docs/formats/pack.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/hash.h"
#include "formats/base/object_id.h"
#include "formats/compression/zstd.h"

namespace formats {

/// What a blob is for. Said by the pack, never guessed from content.
enum class BlobKind : std::uint8_t {
  data = 0,
  recipe = 1,
  manifest = 2,
  layout = 3,
  skeleton = 4,
  piece = 5
};
inline constexpr std::size_t kBlobKinds = 6;
[[nodiscard]] std::string_view to_string(BlobKind kind) noexcept;

inline constexpr std::size_t kMaxPackedBlob = std::size_t{8} << 20;  ///< content bytes
inline constexpr std::size_t kMaxGroup = std::size_t{16} << 20;      ///< content bytes of all its blobs
inline constexpr std::size_t kMaxStoredGroup = 2 * kMaxGroup;        ///< bytes in the file
inline constexpr std::size_t kMaxGroupBlobs = std::size_t{1} << 16;
inline constexpr std::size_t kMaxPackBlobs = std::size_t{1} << 19;  ///< writers roll over before
inline constexpr std::uint64_t kPackRollover = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kMaxPackSize = std::uint64_t{1} << 40;  ///< bytes; places beyond are none

/// One blob of a group, in storage order.
struct PackedBlob {
  base::ObjectId id;  ///< unknown (all zero) when read from a group header
  std::uint32_t size;
  BlobKind kind;
};

/// Where a group lies in its pack: from the start of its header to the end of its zstd frame.
struct GroupPlace {
  std::uint64_t offset;
  std::uint32_t size;
};

/// A group ready to be appended to a pack.
struct EncodedGroup {
  base::Buffer bytes;  ///< header and frame
  std::vector<PackedBlob> blobs;
};

/// `content` holds the blobs back to back, in the order of `blobs`.
[[nodiscard]] EncodedGroup encode_group(std::vector<PackedBlob> blobs, base::Bytes content,
                                        ZstdCompressor& compressor);

/// A group's header: what it holds and how much of the file is its frame.
struct GroupHeader {
  std::vector<PackedBlob> blobs;  ///< without ids
  std::size_t header_size;
  std::size_t frame_size;
  std::size_t content_size;
};
/// Parses the header at the front of `bytes`; nullopt if more bytes are needed. Throws corrupt.
[[nodiscard]] std::optional<GroupHeader> find_group_header(base::Bytes bytes);

struct DecodedGroup {
  std::vector<PackedBlob> blobs;     ///< without ids: the caller hashes, which is the proof; see name_blobs()
  std::vector<std::size_t> offsets;  ///< of each blob in content
  base::Buffer content;
  [[nodiscard]] base::Bytes blob(std::size_t position) const {
    return base::Bytes(content).subspan(offsets[position], blobs[position].size);
  }
};
/// Decodes a whole group. Throws corrupt; allocates no more than kMaxGroup.
[[nodiscard]] DecodedGroup decode_group(base::Bytes bytes, ZstdDecompressor& decompressor);

/// Gives each blob the id of its bytes; one whose hashing is refused (see base::ObjectHasher) none, all zero.
void name_blobs(base::ObjectFormat format, DecodedGroup& group);

/// Builds one pack as a stream of bytes: groups in the order given, then the trailer. One thread at a time.
class PackWriter {
 public:
  PackWriter(base::ObjectFormat format, base::ByteSink sink);
  /// Returns where the group lies.
  GroupPlace append(const EncodedGroup& group);
  /// Writes the trailer. The SHA-256 of all bytes names the pack.
  [[nodiscard]] base::Sha256::Digest finish();
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t blob_count() const noexcept { return blob_count_; }

 private:
  void emit(base::Bytes bytes);
  base::ByteSink sink_;
  base::Sha256 hash_;
  std::uint64_t size_ = 0;
  std::size_t blob_count_ = 0;
  std::string trailer_;
};

using base::ReadAt;
/// Called for each group in file order.
using GroupVisitor = std::function<void(const GroupPlace&, const std::vector<PackedBlob>&)>;

/// Reads the trailer of a pack of `size` bytes. Throws corrupt if it is missing or damaged: then walk_pack()
/// can tell what the groups hold. Memory is one group's rows plus a small buffer.
void read_trailer(base::ObjectFormat format, const ReadAt& read, std::uint64_t size,
                  const GroupVisitor& visit);

/// Reads the group headers of a pack from its start and decodes nothing; ids stay unknown. Stops at the first
/// place that is not a group and returns its offset: the start of the trailer, or of damage.
std::uint64_t walk_pack(const ReadAt& read, std::uint64_t size, const GroupVisitor& visit);

/// Whether a trailer's frame begins at `offset` and runs to the end of the pack, whatever it holds.
[[nodiscard]] bool is_trailer_at(const ReadAt& read, std::uint64_t offset, std::uint64_t size);

}  // namespace formats
