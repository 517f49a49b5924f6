// Recipes: the chunks, holes and slices one larger blob is made of. docs/formats/text-objects.md, "Recipe"
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "formats/base/object_id.h"
#include "formats/text/text_object.h"

namespace formats {

/// Holes are whole blocks of this many bytes …
inline constexpr std::uint64_t kHoleBlock = 4096;
/// … and at least this long.
inline constexpr std::uint64_t kMinHole = std::uint64_t{64} << 10;

/// No chunk or slice is longer: the maximum of the largest profile, in bytes.
inline constexpr std::uint64_t kMaxChunk = std::uint64_t{4} << 20;

/// What the first line of a recipe says.
struct RecipeHeader {
  std::uint64_t size = 0;              ///< content bytes
  std::string chunker;                 ///< profile id, for example vg1:a=16
  std::optional<base::ObjectId> blob;  ///< whole-content id; images may lack it
};

/// One line of a recipe.
struct RecipeItem {
  enum class Type : std::uint8_t { chunk, hole, slice };
  Type type = Type::hole;
  std::uint64_t size = 0;    ///< bytes of content it stands for
  base::ObjectId id;         ///< chunk: a blob of exactly `size` bytes; slice: the blob it is cut from
  std::uint64_t offset = 0;  ///< slice: where in the blob it begins
};

class RecipeWriter {
 public:
  RecipeWriter(base::ObjectFormat format, PutText put);
  void add(const RecipeItem& item);
  /// Category::internal if header.size is not the sum of the items.
  [[nodiscard]] base::ObjectId finish(const RecipeHeader& header);
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

 private:
  base::ObjectFormat format_;
  TextWriter text_;
  std::uint64_t size_ = 0;
};

/// Reads a recipe in order. Refuses sizes that do not sum up, misplaced or neighbouring holes, chunks of no
/// or of impossible size. One thread at a time.
class RecipeReader {
 public:
  RecipeReader(base::Buffer root, base::ObjectFormat format, GetText get);
  RecipeReader(const RecipeReader&) = delete;
  RecipeReader& operator=(const RecipeReader&) = delete;
  [[nodiscard]] const RecipeHeader& header() const noexcept { return header_; }
  /// Content offset of the item that next() returns next.
  [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }
  [[nodiscard]] bool next(RecipeItem& item);
  /// Passes over what lies wholly before `offset`, without fetching pieces that do. Call before the first
  /// next().
  void seek(std::uint64_t offset);
  /// See TextReader::on_piece.
  void on_piece(std::function<void(const base::ObjectId&)> visit) { text_.on_piece = std::move(visit); }

 private:
  bool enter(const TextReader::Listed& listed);
  base::ObjectFormat format_;
  TextReader text_;
  RecipeHeader header_;
  std::uint64_t offset_ = 0;
  std::uint64_t seek_ = 0;
  /// By level: where the piece that was entered (or passed over) last ends, as its list says; level 0 is
  /// unused.
  std::array<std::uint64_t, kMaxLevels + 1> ends_{};
  bool after_hole_ = false;
};

/// The header of a recipe root, without reading on; nullopt if `root` is not one.
[[nodiscard]] std::optional<RecipeHeader> find_recipe_header(base::Bytes root, base::ObjectFormat format);

}  // namespace formats
