#include "formats/base/object_id.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "formats/base/error.h"

namespace base {
namespace {

/// The value of each hex digit; -1 for what is none.
constexpr auto kDigits = [] {
  std::array<std::int8_t, 256> digits{};
  digits.fill(-1);
  for (int i = 0; i < 16; ++i)
    digits[static_cast<unsigned char>("0123456789abcdef"[i])] = static_cast<std::int8_t>(i);
  return digits;
}();

bool decode_hex(std::string_view hex, std::byte* to) noexcept {
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    const int high = kDigits[static_cast<unsigned char>(hex[i])];
    const int low = kDigits[static_cast<unsigned char>(hex[i + 1])];
    if ((high | low) < 0) return false;
    to[i / 2] = static_cast<std::byte>(high << 4 | low);
  }
  return true;
}

}  // namespace

std::string_view to_string(ObjectFormat format) noexcept {
  return format == ObjectFormat::sha1 ? "sha1" : "sha256";
}

std::optional<ObjectFormat> find_object_format(std::string_view name) noexcept {
  if (name == "sha1") return ObjectFormat::sha1;
  if (name == "sha256") return ObjectFormat::sha256;
  return std::nullopt;
}

ObjectId::ObjectId(ObjectFormat format, Bytes raw) : format_(format) {
  if (raw.size() != id_size(format)) throw Error(Category::internal, "object id of wrong size");
  std::copy(raw.begin(), raw.end(), raw_.begin());
}

std::optional<ObjectId> ObjectId::parse(ObjectFormat format, std::string_view hex) noexcept {
  if (hex.size() != 2 * id_size(format)) return std::nullopt;
  ObjectId id;
  id.format_ = format;
  if (!decode_hex(hex, id.raw_.data())) return std::nullopt;
  return id;
}

ObjectId ObjectId::require(ObjectFormat format, std::string_view hex) {
  if (const auto id = parse(format, hex)) return *id;
  const auto other = format == ObjectFormat::sha1 ? ObjectFormat::sha256 : ObjectFormat::sha1;
  if (parse(other, hex)) {
    throw Error(Category::refused,
                "id " + std::string(hex.substr(0, 12)) + "…: a " + std::string(to_string(other)) + " name (" +
                    std::to_string(hex.size()) + " hex digits), but the object format here is " +
                    std::string(to_string(format)),
                "name the blob by its " + std::string(to_string(format)) + " id: vat hash-object FILE");
  }
  throw Error(Category::refused, "id '" + std::string(hex.substr(0, 80)) + "': not " +
                                     std::to_string(2 * id_size(format)) + " lower-case hex digits");
}

std::string ObjectId::hex() const {
  return to_hex(raw());
}

std::string to_hex(Bytes bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex(bytes.size() * 2, '0');
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    hex[2 * i] = kDigits[std::to_integer<unsigned>(bytes[i]) >> 4];
    hex[2 * i + 1] = kDigits[std::to_integer<unsigned>(bytes[i]) & 15];
  }
  return hex;
}

std::optional<Buffer> from_hex(std::string_view hex) {
  Buffer bytes(hex.size() / 2);
  if (hex.size() % 2 != 0 || !decode_hex(hex, bytes.data())) return std::nullopt;
  return bytes;
}

}  // namespace base
