// How the blobs of a vat begin, so that an image of a file system is seen to hold them: files lie at
// multiples of 4096 bytes in it, with zeros behind them.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/table/table_set.h"
#include "vat/adder.h"
#include "vat/internal/index.h"
#include "vat/vat.h"

namespace vat::internal {

/// A table in local/blocks of the vat, which can be lost at any time: for each data blob of a pack a hash of
/// its first block. Blobs that are a group by themselves are left out: they are chunks of images.
///
/// One thread at a time. Errors: local.
class KnownBlocks {
 public:
  static constexpr std::size_t kBlock = 4096;          ///< bytes
  static constexpr std::uint32_t kMinSize = 512;       ///< of blobs that are worth a line in a recipe
  static constexpr std::uint32_t kMaxSize = 1U << 20;  ///< of blobs that are looked for

  /// Of the vat of `adder`, which outlives it.
  explicit KnownBlocks(const Adder& adder) : adder_(adder), vat_(adder.vat()) {}

  struct Candidate {
    base::ObjectId id;
    std::uint32_t size = 0;  ///< bytes
  };
  /// Blobs that may begin with `block`, of kBlock bytes; a few at most. The first time all packs are read
  /// that are new since the last process did.
  void find(base::Bytes block, const std::function<void(const Candidate&)>& visit);
  /// Whether the vat still has it, good, and it may be relied on.
  [[nodiscard]] bool is_stored(const Candidate& candidate);

 private:
  [[nodiscard]] std::vector<Candidate> look_up(base::Bytes block);
  void load();
  void read_pack(const PackRecord& record);

  const Adder& adder_;
  Vat& vat_;
  std::optional<formats::TableSet> tables_;  ///< once it is needed
};

}  // namespace vat::internal
