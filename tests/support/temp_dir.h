// Scratch space and small conveniences for tests; the only code of theirs that touches the disk.
#pragma once

#include <cstdint>
#include <string>

#include "formats/base/bytes.h"

namespace tests {

/// A fresh directory that is removed with all in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void write_file(const std::string& path, base::Bytes content);
[[nodiscard]] std::string read_file(const std::string& path);

/// Pseudo-random bytes: the little-endian outputs of splitmix64 started at `seed`.
[[nodiscard]] base::Buffer random_bytes(std::size_t size, std::uint64_t seed);

/// Golden files live beside the tests.
[[nodiscard]] std::string golden(const std::string& name);

}  // namespace tests
