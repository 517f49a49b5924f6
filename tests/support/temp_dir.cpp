#include "tests/support/temp_dir.h"

#include <fcntl.h>

#include <cstdlib>
#include <cstring>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace tests {

TempDir::TempDir() {
  const char* base_dir = std::getenv("TMPDIR");
  path_ = std::string(base_dir != nullptr ? base_dir : "/tmp") + "/shrub-test-XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) base::throw_errno(path_, errno);
}

TempDir::~TempDir() {
  try {
    base::remove_tree(AT_FDCWD, path_);
  } catch (const base::Error&) {
    // a test that leaves something unremovable has other troubles
  }
}

void write_file(const std::string& path, base::Bytes content) {
  auto fd = base::open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC);
  base::write_all(fd.get(), content);
  fd.close();
}

std::string read_file(const std::string& path) {
  return base::read_file(AT_FDCWD, path, std::size_t{1} << 30);
}

base::Buffer random_bytes(std::size_t size, std::uint64_t seed) {
  base::Buffer bytes(size);
  for (std::size_t i = 0; i < size; i += 8) {
    std::uint64_t z = (seed += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    std::memcpy(bytes.data() + i, &z, std::min<std::size_t>(8, size - i));
  }
  return bytes;
}

std::string golden(const std::string& name) {
  return std::string(SHRUB_GOLDEN) + "/" + name;
}

}  // namespace tests
