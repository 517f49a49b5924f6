#include "formats/text/text_object.h"

#include <algorithm>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "formats/base/utf8.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, what);
}

bool ends_piece(std::string_view line) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : line) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash % 1024 == 0;
}

bool is_escaped(unsigned char byte, bool equals_too) {
  return byte <= 0x20 || byte == 0x7f || byte == '\\' || (equals_too && byte == '=');
}

void append_octal(std::string& to, unsigned char byte) {
  to += '\\';
  to += static_cast<char>('0' + (byte >> 6));
  to += static_cast<char>('0' + (byte >> 3 & 7));
  to += static_cast<char>('0' + (byte & 7));
}

}  // namespace

/// Lines of one level that are not yet in a piece.
struct TextWriter::Level {
  struct Line {
    std::size_t end;      ///< in text, after its LF
    std::uint64_t lines;  ///< leaf lines below (1 on level 1)
    std::uint64_t size;
    std::string first;
  };
  std::string text;
  std::vector<Line> lines;
  bool cutting = false;      ///< more than one piece is certain
  std::size_t examined = 0;  ///< lines already known not to end a piece
};

TextWriter::TextWriter(Summary summary, PutText put) : summary_(summary), put_(std::move(put)) {}
TextWriter::~TextWriter() = default;
TextWriter::TextWriter(TextWriter&&) noexcept = default;
TextWriter& TextWriter::operator=(TextWriter&&) noexcept = default;

void TextWriter::add(std::string_view line, std::uint64_t size, std::string_view first) {
  if (line.size() > kMaxLine) refuse("a line of more than 1 MiB (too many extended attributes?)");
  add_to(0, line, 1, size, first);
}

void TextWriter::add_to(std::size_t index, std::string_view line, std::uint64_t lines, std::uint64_t size,
                        std::string_view first) {
  if (index == levels_.size()) {
    if (levels_.size() == kMaxLevels) refuse("a list of too many lines");
    levels_.push_back(std::make_unique<Level>());
  }
  Level& level = *levels_[index];
  level.text.append(line);
  level.text += '\n';
  // Only the key of a piece's first line is ever used.
  const bool key_needed = summary_ == Summary::first && (!level.cutting || level.lines.empty());
  level.lines.push_back({level.text.size(), lines, size, key_needed ? std::string(first) : std::string()});
  if (!level.cutting && level.lines.size() <= kMaxPieceLines && level.text.size() <= kPieceByteGoal) return;
  level.cutting = true;
  cut(index);
}

/// Closes every piece that is complete among the pending lines; looks at each line once.
void TextWriter::cut(std::size_t index) {
  Level& level = *levels_[index];
  while (level.examined < level.lines.size()) {
    const std::size_t i = level.examined++;
    const std::size_t start = i == 0 ? 0 : level.lines[i - 1].end;
    const std::string_view line(level.text.data() + start, level.lines[i].end - start - 1);
    const bool full = i + 1 == kMaxPieceLines || level.lines[i].end >= kPieceByteGoal;
    if (full || (i + 1 >= kMinPieceLines && ends_piece(line))) {
      close_piece(index, level.lines[i].end, i + 1);
      level.examined = 0;
    }
  }
}

void TextWriter::close_piece(std::size_t index, std::size_t text_end, std::size_t line_end) {
  Level& level = *levels_[index];
  const auto id = put_(base::as_bytes(std::string_view(level.text).substr(0, text_end)), false);
  std::uint64_t lines = 0, size = 0;
  for (std::size_t i = 0; i < line_end; ++i) {
    lines += level.lines[i].lines;
    size += level.lines[i].size;
  }
  const std::string first = std::move(level.lines.front().first);
  level.text.erase(0, text_end);
  level.lines.erase(level.lines.begin(), level.lines.begin() + static_cast<std::ptrdiff_t>(line_end));
  for (auto& line : level.lines) line.end -= text_end;
  const std::string summary = summary_ == Summary::size ? std::to_string(size) : first;
  add_to(index + 1, id.hex() + " " + std::to_string(lines) + " " + summary, lines, size, first);
}

base::ObjectId TextWriter::finish(std::string_view header) {
  if (levels_.empty()) levels_.push_back(std::make_unique<Level>());
  for (std::size_t index = 0;; ++index) {
    Level& level = *levels_[index];
    if (level.cutting) {
      if (!level.lines.empty()) close_piece(index, level.text.size(), level.lines.size());
      continue;
    }
    std::string root(header);
    if (index > 0) root += " level " + std::to_string(index + 1);
    root += '\n';
    root += level.text;
    return put_(base::as_bytes(root), true);
  }
}

TextReader::TextReader(std::string_view kind, base::Buffer root, base::ObjectFormat format, GetText get)
    : format_(format), get_(std::move(get)) {
  const auto text = base::as_chars(root);
  const auto newline = text.find('\n');
  if (newline == std::string_view::npos || newline > 1000) refuse("no first line");
  std::string_view header = text.substr(0, newline);
  const std::string start = std::string(kind) + " 1 " + std::string(base::to_string(format));
  if (!header.starts_with(start) || (header.size() > start.size() && header[start.size()] != ' '))
    refuse("does not begin with '" + start + "'");
  header.remove_prefix(start.size());
  if (const auto at = header.rfind(" level "); at != std::string_view::npos) {
    const auto level = base::parse_decimal(header.substr(at + 7));
    if (!level || *level < 2 || *level > kMaxLevels) refuse("bad level");
    level_ = static_cast<int>(*level);
    header = header.substr(0, at);
  }
  if (header.ends_with(' ')) refuse("a blank at the end of the first line");
  parameters_ = header.substr(header.empty() ? 0 : 1);
  open_.push_back({std::move(root), newline + 1, level_, UINT64_MAX});
}

bool TextReader::next_of_top(std::string_view& line) {
  Open& top = open_.back();
  const auto text = base::as_chars(top.text);
  if (top.at == text.size()) return false;
  const auto newline = text.find('\n', top.at);
  if (newline == std::string_view::npos) refuse("last line has no end");
  line = text.substr(top.at, newline - top.at);
  if (line.size() > kMaxLine) refuse("line longer than 1 MiB");
  top.at = newline + 1;
  return true;
}

void TextReader::descend(std::string_view list_line) {
  const auto id = base::ObjectId::parse(format_, base::take_field(list_line, ' '));
  const auto lines = base::parse_decimal(base::take_field(list_line, ' '));
  if (!id || !lines || *lines == 0 || *lines == UINT64_MAX || list_line.empty()) refuse("bad list line");
  Open& top = open_.back();
  if (*lines > top.lines_left) refuse("pieces hold more lines than listed");
  if (top.lines_left != UINT64_MAX) top.lines_left -= *lines;
  const int level = top.level;
  if (on_piece) on_piece(*id);
  if (wanted && !wanted({top.level, *lines, list_line})) return;
  auto piece = get_(*id);
  if (piece.empty() || piece.size() > kMaxTextBlob) refuse("piece of impossible size");
  open_.push_back({std::move(piece), 0, level - 1, *lines});
}

bool TextReader::next(std::string_view& line) {
  while (!open_.empty()) {
    if (!next_of_top(line)) {
      if (open_.back().lines_left != 0 && open_.back().lines_left != UINT64_MAX)
        refuse("pieces hold fewer lines than listed");
      open_.pop_back();
      continue;
    }
    Open& top = open_.back();
    if (top.level == 1) {
      if (top.lines_left == 0) refuse("pieces hold more lines than listed");
      if (top.lines_left != UINT64_MAX) --top.lines_left;
      return true;
    }
    descend(line);
  }
  return false;
}

void append_escaped(std::string& to, std::string_view bytes, bool equals_too) {
  while (!bytes.empty()) {
    const auto plain = std::find_if(bytes.begin(), bytes.end(), [&](char c) {
      return is_escaped(static_cast<unsigned char>(c), equals_too);
    });
    to.append(bytes.begin(), plain);
    bytes.remove_prefix(static_cast<std::size_t>(plain - bytes.begin()));
    if (bytes.empty()) return;
    const auto byte = static_cast<unsigned char>(bytes.front());
    append_octal(to, byte);
    bytes.remove_prefix(1);
  }
}

std::string escape(std::string_view bytes, bool equals_too) {
  std::string text;
  append_escaped(text, bytes, equals_too);
  return text;
}

std::string unescape(std::string_view text, bool equals_too) {
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto plain = std::find_if(text.begin() + static_cast<std::ptrdiff_t>(i), text.end(), [&](char c) {
      return c == '\\' || is_escaped(static_cast<unsigned char>(c), equals_too);
    });
    bytes.append(text.begin() + static_cast<std::ptrdiff_t>(i), plain);
    i = static_cast<std::size_t>(plain - text.begin());
    if (i == text.size()) break;
    if (text[i] != '\\') refuse("a byte that must be escaped is not");
    unsigned value = 0;
    for (std::size_t digit = 1; digit <= 3; ++digit) {
      if (i + digit >= text.size() || text[i + digit] < '0' || text[i + digit] > '7') refuse("bad escape");
      value = value << 3 | static_cast<unsigned>(text[i + digit] - '0');
    }
    if (value > 0xff || !is_escaped(static_cast<unsigned char>(value), equals_too)) refuse("needless escape");
    bytes += static_cast<char>(value);
    i += 3;
  }
  return bytes;
}

std::string escape_for_json(std::string_view bytes) {
  auto text = escape(bytes);
  if (base::is_utf8(text)) return text;
  std::string ascii;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80)
      ascii += c;
    else
      append_octal(ascii, byte);
  }
  return ascii;
}

std::string unescape_from_json(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size();) {
    const bool high = text[i] == '\\' && i + 3 < text.size() && (text[i + 1] == '2' || text[i + 1] == '3') &&
                      text[i + 2] >= '0' && text[i + 2] <= '7' && text[i + 3] >= '0' && text[i + 3] <= '7';
    if (high)
      plain += static_cast<char>((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 | (text[i + 3] - '0'));
    else
      plain += text[i];
    i += high ? 4 : 1;
  }
  return unescape(plain);
}

}  // namespace formats
