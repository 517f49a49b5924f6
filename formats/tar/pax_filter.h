// A tar on its way to libarchive, which passes over global pax headers and takes a time of -0.5 for 0.5.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/compression/decoder.h"
#include "formats/tar/tar_header.h"

namespace formats {

/// Yields the bytes of the tar as they are, but for two things. What a global header says is put into the
/// header of each member that follows, as GNU tar has it. A member whose time lies within the second before
/// 1970 gets the attribute kBeforeEpoch, and the time without its sign.
///
/// A form of member whose size programs do not agree on ends that: the rest comes as it is, or is refused
/// where a global header is in force. One thread at a time.
class PaxFilter {
 public:
  static constexpr const char* kBeforeEpoch = "vat.before-epoch";

  explicit PaxFilter(ByteSource source) : source_(std::move(source)) {}
  /// As a ByteSource; fills `to` unless the tar ends. Throws refused.
  std::size_t operator()(base::MutableBytes to);

 private:
  using Records = std::vector<std::pair<std::string, std::string>>;
  struct Extended {
    std::string bytes;  ///< header and records, as they came
    Records records;
  };

  void take_header();
  void take_global(const TarHeader& header, std::uint64_t size);
  void take_extended(const TarHeader& header, std::uint64_t size);
  /// What stands before the header of a member.
  [[nodiscard]] std::string preface();
  void give_up(const TarHeader& header);
  [[nodiscard]] std::string read_exactly(std::uint64_t size);

  ByteSource source_;
  std::string ready_;  ///< to be given out first
  std::size_t ready_at_ = 0;
  std::uint64_t passing_ = 0;  ///< bytes that follow and are given out as they are
  bool is_passing_all_ = false;
  std::map<std::string, std::string> global_;
  std::optional<Extended> extended_;  ///< of the member that follows
};

}  // namespace formats
