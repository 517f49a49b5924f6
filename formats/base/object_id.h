// Names of blobs: git object ids in either of git's object formats.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "formats/base/bytes.h"

namespace base {

/// How objects are named; fixed per vat as it is per git repository.
enum class ObjectFormat : std::uint8_t { sha1 = 1, sha256 = 2 };

[[nodiscard]] constexpr std::size_t id_size(ObjectFormat format) noexcept {
  return format == ObjectFormat::sha1 ? 20 : 32;
}
[[nodiscard]] std::string_view to_string(ObjectFormat format) noexcept;
[[nodiscard]] std::optional<ObjectFormat> find_object_format(std::string_view name) noexcept;

/// The id of one object. A value type; the default one is all zero and names nothing.
class ObjectId {
 public:
  ObjectId() = default;
  /// `raw` is exactly id_size(format) bytes.
  ObjectId(ObjectFormat format, Bytes raw);

  /// Lower-case hex of exactly the right length, or nullopt.
  [[nodiscard]] static std::optional<ObjectId> parse(ObjectFormat format, std::string_view hex) noexcept;

  /// The id a user typed or a file holds: as parse(), but an id of the other format, upper case and bad
  /// length are refused (Category::refused) with a message that says which.
  [[nodiscard]] static ObjectId require(ObjectFormat format, std::string_view hex);

  [[nodiscard]] ObjectFormat format() const noexcept { return format_; }
  [[nodiscard]] Bytes raw() const noexcept { return {raw_.data(), id_size(format_)}; }
  [[nodiscard]] std::string hex() const;
  /// The first 12 hex digits, for messages.
  [[nodiscard]] std::string short_hex() const { return hex().substr(0, 12); }

  friend bool operator==(const ObjectId&, const ObjectId&) = default;
  friend std::strong_ordering operator<=>(const ObjectId&, const ObjectId&) = default;

 private:
  std::array<std::byte, 32> raw_{};
  ObjectFormat format_ = ObjectFormat::sha256;
};

/// Lower-case hex of any bytes, and back (nullopt unless an even number of lower-case hex digits).
[[nodiscard]] std::string to_hex(Bytes bytes);
[[nodiscard]] std::optional<Buffer> from_hex(std::string_view hex);

}  // namespace base

template <>
struct std::hash<base::ObjectId> {
  std::size_t operator()(const base::ObjectId& id) const noexcept {
    std::size_t value;  // ids are hashes already
    std::memcpy(&value, id.raw().data(), sizeof value);
    return value;
  }
};
