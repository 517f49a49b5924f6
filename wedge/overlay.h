// What is written to a disk that is only read, as long as the process lives.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "formats/base/unique_fd.h"
#include "wedge/nbd_server.h"

namespace wedge {

/// Keeps what is written in a file without a name. Thread-safety: any member from any thread; of a write and
/// a read of the same bytes at the same time either comes first, block by block. Errors: local; those of the
/// disk.
class Overlay {
 public:
  static constexpr std::uint64_t kBlock = 4096;  ///< bytes

  /// `directory`: of the file. Memory: a bit for each block.
  Overlay(NbdDisk below, const std::string& directory);
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  /// The disk with what is written to it; this outlives it.
  [[nodiscard]] NbdDisk disk();

 private:
  struct Part {
    std::uint64_t end;
    bool is_written;
  };
  /// Looks no further than `limit`.
  [[nodiscard]] Part part_at(std::uint64_t at, std::uint64_t limit);
  void read(std::uint64_t at, base::MutableBytes to, const std::function<bool()>& is_over);
  [[nodiscard]] NbdDisk::Run run_at(std::uint64_t at, const std::function<bool()>& is_over);
  void write(std::uint64_t at, base::Bytes bytes, const std::function<bool()>& is_over);
  /// Takes over the block around `at`, unless all of it is about to be written.
  void copy_up(std::uint64_t at, const std::function<bool()>& is_over);

  const NbdDisk below_;
  base::UniqueFd file_;
  std::mutex writing_;         ///< one write at a time
  std::mutex mutex_;           ///< guards written_
  std::vector<bool> written_;  ///< by block
};

}  // namespace wedge
