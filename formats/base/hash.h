// Hashing: git object ids of streams and buffers, and plain SHA-256 for pack names.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"

namespace base {

/// Streams the content of one object of known size and yields its git id: H(type ' ' size NUL content).
///
/// SHA-1 ids are computed with collision detection (formats/base/internal/sha1.h): content built to collide
/// is refused (Category::refused) by finish(). One thread at a time; reset() makes the object reusable, which
/// is cheaper than a new one.
class ObjectHasher {
 public:
  explicit ObjectHasher(ObjectFormat format);
  ~ObjectHasher();
  ObjectHasher(ObjectHasher&&) noexcept;
  ObjectHasher& operator=(ObjectHasher&&) noexcept;

  /// Starts an object of `size` bytes; `type` is a git object type such as "blob" or "tree".
  void reset(std::uint64_t size, std::string_view type = "blob");
  void update(Bytes content);
  void update_zeros(std::uint64_t count);
  /// The id. Category::internal if fewer or more than `size` bytes were given.
  [[nodiscard]] ObjectId finish();

  /// reset, update and finish in one call.
  [[nodiscard]] ObjectId hash(Bytes content, std::string_view type = "blob");

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The blob id of `content`.
[[nodiscard]] ObjectId hash_blob(ObjectFormat format, Bytes content);

/// The blob ids of many contents at once, several times faster than one by one where the machine has wide
/// vectors and there are many. `ids` is as long as `contents`. Throws as ObjectHasher::finish().
void hash_blobs(ObjectFormat format, std::span<const Bytes> contents, std::span<ObjectId> ids);

/// Plain SHA-256 of a stream, as sha256sum prints it.
class Sha256 {
 public:
  using Digest = std::array<std::byte, 32>;
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void update(Bytes content);
  [[nodiscard]] Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Of all bytes of a file, from its start, whatever its offset is.
[[nodiscard]] Sha256::Digest sha256_of_file(int fd);

}  // namespace base
