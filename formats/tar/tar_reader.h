// Members of a tar archive, one after the other. Any flavour libarchive reads: ustar, GNU, pax.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "formats/base/bytes.h"
#include "formats/compression/decoder.h"

namespace formats {

/// One member as the archive describes it. Nothing in it may be trusted.
struct TarMember {
  enum class Type : std::uint8_t {
    directory,
    file,
    symlink,
    hard_link,
    character_device,
    block_device,
    fifo,
    socket
  };
  Type type = Type::file;
  std::string path;    ///< as it stands in the archive, any bytes
  std::string target;  ///< of a symlink or hard link
  std::uint32_t mode = 0, uid = 0, gid = 0;
  std::int64_t mtime = 0;
  std::uint32_t mtime_nanoseconds = 0;
  std::uint64_t size = 0;
  std::uint32_t device_major = 0, device_minor = 0;
  bool has_acl = false;  ///< an access control list that the mode does not say, which is not read
  std::map<std::string, std::string> xattrs;
};

/// Reads a tar from a stream. One thread at a time. Throws refused for what is not a tar or is damaged.
class TarReader {
 public:
  explicit TarReader(ByteSource source);
  ~TarReader();
  TarReader(const TarReader&) = delete;
  TarReader& operator=(const TarReader&) = delete;

  /// The next member; false at the end of the archive.
  [[nodiscard]] bool next(TarMember& member);
  /// A part of the present member's content; valid until the next call of anything here. What lies between
  /// two of them, and between the last and the member's size, is hole.
  struct Part {
    std::uint64_t offset = 0;  ///< in the member; not before the end of the part before
    base::Bytes bytes;
  };
  /// nullopt at the end of the content.
  [[nodiscard]] std::optional<Part> next_part();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace formats
