// What one root needs and another has not, as a stream. docs/formats/delta.md
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/delta/delta.h"
#include "formats/text/manifest.h"
#include "formats/text/text_object.h"
#include "vat/internal/plan.h"
#include "vat/vat.h"

namespace vat::internal {

/// Ids, eight bytes each: one taken for another costs whoever uses the delta a request.
class IdSet {
 public:
  void add(const base::ObjectId& id);
  void finish();
  [[nodiscard]] bool has(const base::ObjectId& id) const;

 private:
  std::vector<std::uint64_t> keys_;
};

/// Memory: 24 MiB of content and what zstd takes, eight bytes for each blob of `from`, and the rows of `from`
/// that `to` has not. One thread at a time. Throws not_found, corrupt for what the vat lacks.
class DeltaMaker {
 public:
  /// `from` is of the same kind; without it everything is new. `level`: of zstd. `progress`: content bytes of
  /// the new root met so far.
  DeltaMaker(Vat& vat, std::optional<Root> from, const Root& to, int level,
             std::function<void(std::uint64_t)> progress = {});

  enum class Part : std::uint8_t { all, texts, data };
  struct Written {
    std::uint64_t blobs = 0, size = 0, stored_size = 0;
  };
  /// Once for each part. `is_wanted`: by the number of a data blob in the walk of the root; empty: all.
  Written write(Part part, const std::function<bool(std::uint64_t)>& is_wanted, const base::ByteSink& sink);

 private:
  struct OldFile {
    base::ObjectId blob;
    std::uint64_t size = 0;
  };
  /// A piece of the old root that something new may be like.
  struct OldPiece {
    base::ObjectId id;
    std::uint64_t offset = 0, size = 0;
  };
  struct Group {
    std::vector<formats::PackedBlob> blobs;
    base::Buffer content;
    std::vector<OldPiece> prefix;
    std::uint64_t prefix_size = 0;
  };

  [[nodiscard]] formats::GetText getter();
  void learn_old();
  [[nodiscard]] std::uint64_t missing_size();
  void compare_rows();
  [[nodiscard]] const OldFile* find_old(const std::string& path) const;
  void begin_file(const formats::Row* row);
  void add(const Met& met, bool is_new);
  void refer(Group& group, std::uint64_t begin, std::uint64_t end);
  static void refer(Group& group, const OldPiece& piece, std::uint64_t limit);
  void flush(Group& group);

  Vat& vat_;
  const std::optional<Root> from_;
  const Root to_;
  const int level_;
  const std::function<void(std::uint64_t)> progress_;
  std::optional<formats::DeltaWriter> writer_;
  Written written_;
  IdSet old_ids_;
  std::vector<OldPiece> old_texts_;
  std::map<base::ObjectId, base::ObjectId> old_recipes_;
  std::map<std::string, std::map<std::string, OldFile>> old_files_;  ///< by directory and name
  std::unordered_set<base::ObjectId> done_;
  std::vector<OldPiece> old_pieces_;  ///< of the file that new data may be like, in the order of offsets
  std::uint64_t offset_ = 0, met_ = 0;
  Group texts_, data_;
};

}  // namespace vat::internal
