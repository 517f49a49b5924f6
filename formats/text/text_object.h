// Canonical text objects: how a list of lines becomes one named object, cut into a hash tree when it is long.
// docs/formats/text-objects.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"

namespace formats {

inline constexpr std::size_t kMinPieceLines = 256;
inline constexpr std::size_t kMaxPieceLines = 4096;
inline constexpr std::size_t kPieceByteGoal = std::size_t{1}
                                              << 20;  ///< a piece ends with the line that reaches it
inline constexpr std::size_t kMaxLine = std::size_t{1} << 20;
inline constexpr std::size_t kMaxTextBlob = 2 * (std::size_t{1} << 20) + 4096;  ///< a root or piece, in bytes
inline constexpr int kMaxLevels = 8;

/// Stores one blob of text and returns its id. `root` is false for the pieces below.
using PutText = std::function<base::ObjectId(base::Bytes text, bool root)>;
/// The proven bytes of a text blob.
using GetText = std::function<base::Buffer(const base::ObjectId& id)>;

/// Writes the lines of one text object, storing pieces as they fill. Memory: a few pieces. One thread at a
/// time.
class TextWriter {
 public:
  enum class Summary { size, first };  ///< what the third column of a list says of the lines below

  TextWriter(Summary summary, PutText put);
  ~TextWriter();
  TextWriter(TextWriter&&) noexcept;
  TextWriter& operator=(TextWriter&&) noexcept;

  /// `line` has no LF. `size` counts for Summary::size, `first` (the line's key) for Summary::first.
  void add(std::string_view line, std::uint64_t size, std::string_view first);
  /// Stores the root, which begins with `header` (no LF), and returns its id.
  [[nodiscard]] base::ObjectId finish(std::string_view header);

 private:
  struct Level;
  void add_to(std::size_t level, std::string_view line, std::uint64_t lines, std::uint64_t size,
              std::string_view first);
  void close_piece(std::size_t level, std::size_t text_end, std::size_t line_end);
  void cut(std::size_t level);
  Summary summary_;
  PutText put_;
  std::vector<std::unique_ptr<Level>> levels_;
};

/// Reads the lines of a text object in order, fetching pieces as they are reached.
/// Throws refused for anything that breaks the format. One thread at a time.
class TextReader {
 public:
  /// Of one line of a list: how many lines lie below and what the third column says.
  struct Listed {
    int level;  ///< of the list the line stands in, 2 or more
    std::uint64_t lines;
    std::string_view summary;
  };

  /// `root` is the text of the root object; `kind` the first word of its header.
  TextReader(std::string_view kind, base::Buffer root, base::ObjectFormat format, GetText get);

  /// The header without kind, version and object format, and without ` level N`.
  [[nodiscard]] std::string_view parameters() const noexcept { return parameters_; }
  [[nodiscard]] int level() const noexcept { return level_; }

  /// The next line into `line` (valid until the next call); false at the end.
  [[nodiscard]] bool next(std::string_view& line);

  /// When set, pieces for which it returns false are passed over unfetched.
  std::function<bool(const Listed&)> wanted;
  /// When set, called with each piece's id, before `wanted` is asked.
  std::function<void(const base::ObjectId&)> on_piece;

 private:
  struct Open {
    base::Buffer text;
    std::size_t at;
    int level;                 ///< 1: lines of the object itself
    std::uint64_t lines_left;  ///< leaf lines its list line promised
  };
  bool next_of_top(std::string_view& line);
  void descend(std::string_view list_line);

  base::ObjectFormat format_;
  GetText get_;
  std::string parameters_;
  int level_ = 1;
  std::vector<Open> open_;
};

/// `bytes` with every byte ≤ 0x20, 0x7f, `\` (and `=` if asked) as `\ooo`; and back (refused if not that
/// exact form).
[[nodiscard]] std::string escape(std::string_view bytes, bool equals_too = false);
void append_escaped(std::string& to, std::string_view bytes, bool equals_too = false);
[[nodiscard]] std::string unescape(std::string_view text, bool equals_too = false);

/// For paths in JSON: escape(); every byte from 0x80 on as `\ooo`, too, if the text would not be UTF-8. The way
/// back takes both.
[[nodiscard]] std::string escape_for_json(std::string_view bytes);
[[nodiscard]] std::string unescape_from_json(std::string_view text);

}  // namespace formats
