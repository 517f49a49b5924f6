// Storing blobs: what one add puts into a vat becomes one new pack.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/compression/zstd.h"
#include "formats/pack/pack.h"
#include "vat/vat.h"

namespace vat {

struct AddOptions {
  unsigned threads = 0;  ///< that compress; 0: one per core
  int level = formats::kDefaultLevel;
  std::uint64_t pack_size = formats::kPackRollover;  ///< bytes after which the next pack is begun
  bool dry_run = false;                              ///< groups are made and measured, nothing is written
  const std::set<std::string>* replacing = nullptr;  ///< file names of packs in which nothing counts as there
};

/// How blobs share groups. Each class fills groups of its own, in the order blobs are put.
enum class Grouping : std::uint8_t { small_file, chunk, text, single };

struct AddSummary {
  std::uint64_t new_blobs = 0;
  std::uint64_t new_size = 0;      ///< content bytes of new blobs
  std::uint64_t stored_size = 0;   ///< bytes of the packs written
  std::vector<std::string> packs;  ///< names of the packs written
};

/// Puts blobs into a vat. What is there already, known good, costs a look-up; the rest goes into a pack that
/// appears complete or not at all. Packs depend on content, order and options only, not on the number of
/// threads.
///
/// One thread at a time. An Adder destroyed before finish() leaves at most whole packs behind, which a later
/// add of the same content uses. Errors: local (disk full, no permission), busy.
class Adder {
 public:
  /// `vat` outlives it.
  explicit Adder(Vat& vat, const AddOptions& options = {});
  ~Adder();
  Adder(const Adder&) = delete;
  Adder& operator=(const Adder&) = delete;

  [[nodiscard]] Vat& vat() const noexcept;
  /// Whether some of what the vat has is not to be relied on, as packs of it are condemned.
  [[nodiscard]] bool avoids_packs() const noexcept;

  /// Whether a good copy is there that may be relied on: put() of it would store nothing. From any thread;
  /// what was put and is not durable yet does not count.
  [[nodiscard]] bool has(const base::ObjectId& id) const;

  /// Stores `content`, which the caller has named `id`; false if it was there. At most
  /// formats::kMaxPackedBlob bytes.
  bool put(const base::ObjectId& id, formats::BlobKind kind, Grouping grouping, base::Bytes content);

  /// Stores a group as it is, its blobs named and proven by the caller. False, and nothing stored, if one of
  /// them was there.
  bool put_group(formats::EncodedGroup group);

  /// A function that names and stores texts, as formats::PutText wants it. Pieces get BlobKind::piece.
  [[nodiscard]] std::function<base::ObjectId(base::Bytes, bool)> put_text(formats::BlobKind root_kind);

  /// Records that `recipe` describes `content`, once the add is durable.
  void claim(const base::ObjectId& content, const base::ObjectId& recipe, std::uint64_t size);

  /// Returns when everything put is durable and indexed.
  AddSummary finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vat
