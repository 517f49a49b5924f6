#include "formats/text/recipe.h"

#include <algorithm>

#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, "recipe: " + what);
}

RecipeHeader parse_header(std::string_view parameters, base::ObjectFormat format) {
  RecipeHeader header;
  const auto size = base::parse_decimal(base::take_field(parameters, ' '));
  header.chunker = base::take_field(parameters, ' ');
  if (!size || header.chunker.empty() || parameters.empty() || parameters.find(' ') != std::string_view::npos)
    refuse("bad first line");
  header.size = *size;
  if (parameters != "-") {
    header.blob = base::ObjectId::parse(format, parameters);
    if (!header.blob) refuse("bad content id in the first line");
  }
  return header;
}

}  // namespace

RecipeWriter::RecipeWriter(base::ObjectFormat format, PutText put)
    : format_(format), text_(TextWriter::Summary::size, std::move(put)) {}

void RecipeWriter::add(const RecipeItem& item) {
  size_ += item.size;
  const std::string size = std::to_string(item.size);
  switch (item.type) {
    case RecipeItem::Type::hole:
      text_.add("hole " + size, item.size, {});
      break;
    case RecipeItem::Type::chunk:
      text_.add(item.id.hex() + " " + size, item.size, {});
      break;
    case RecipeItem::Type::slice:
      text_.add(item.id.hex() + " " + size + " " + std::to_string(item.offset), item.size, {});
      break;
  }
}

base::ObjectId RecipeWriter::finish(const RecipeHeader& header) {
  if (header.size != size_) throw Error(Category::internal, "recipe items do not sum up to its size");
  return text_.finish("recipe 1 " + std::string(base::to_string(format_)) + " " +
                      std::to_string(header.size) + " " + header.chunker + " " +
                      (header.blob ? header.blob->hex() : "-"));
}

RecipeReader::RecipeReader(base::Buffer root, base::ObjectFormat format, GetText get)
    : format_(format),
      text_("recipe", std::move(root), format, std::move(get)),
      header_(parse_header(text_.parameters(), format)) {
  text_.wanted = [this](const TextReader::Listed& listed) { return enter(listed); };
}

void RecipeReader::seek(std::uint64_t offset) {
  seek_ = offset;
}

/// Called for each line of a list. What a list says of a piece is held against what the piece then holds:
/// else a range could be read from a place where the whole has other bytes.
bool RecipeReader::enter(const TextReader::Listed& listed) {
  const auto size = base::parse_decimal(listed.summary);
  const auto level = static_cast<std::size_t>(listed.level);
  if (!size || *size == 0 || *size > header_.size - offset_) refuse("bad size in a list line");
  if (ends_[level - 1] != offset_) refuse("a piece is not of the size listed");
  const std::uint64_t end = offset_ + *size;
  if (listed.level < text_.level() && end > ends_[level]) refuse("a piece is larger than the one around it");
  for (std::size_t below = 0; below + 1 < level; ++below) ends_[below] = offset_;
  ends_[level - 1] = end;
  if (end > seek_) return true;
  for (std::size_t below = 0; below < level; ++below) ends_[below] = end;
  offset_ = end;
  after_hole_ = false;  // what was passed over is not known to end in a hole
  return false;
}

bool RecipeReader::next(RecipeItem& item) {
  std::string_view line;
  if (!text_.next(line)) {
    const bool pieces_full =
        text_.level() == 1 || std::all_of(ends_.begin() + 1, ends_.begin() + text_.level(),
                                          [this](std::uint64_t end) { return end == offset_; });
    if (offset_ != header_.size || !pieces_full) refuse("its lines do not sum up to its size");
    return false;
  }
  if (line.ends_with(' ')) refuse("a blank at the end of a line");
  const auto first = base::take_field(line, ' ');
  const auto size = base::parse_decimal(base::take_field(line, ' '));
  if (!size || *size == 0 || *size > header_.size - offset_)
    refuse("bad size at offset " + std::to_string(offset_));
  item = {};
  item.size = *size;
  if (first == "hole") {
    if (!line.empty() || offset_ % kHoleBlock != 0 || *size % kHoleBlock != 0 || *size < kMinHole ||
        after_hole_)
      refuse("bad hole at offset " + std::to_string(offset_));
  } else {
    const auto id = base::ObjectId::parse(format_, first);
    if (!id || *size > kMaxChunk) refuse("bad line at offset " + std::to_string(offset_));
    item.id = *id;
    item.type = RecipeItem::Type::chunk;
    if (!line.empty()) {
      const auto offset = base::parse_decimal(line);
      if (!offset || *offset > UINT64_MAX - *size) refuse("bad slice at offset " + std::to_string(offset_));
      item.type = RecipeItem::Type::slice;
      item.offset = *offset;
    }
  }
  after_hole_ = item.type == RecipeItem::Type::hole;
  offset_ += *size;
  if (text_.level() > 1 && offset_ > ends_[1]) refuse("a piece is not of the size listed");
  return true;
}

std::optional<RecipeHeader> find_recipe_header(base::Bytes root, base::ObjectFormat format) {
  try {
    const TextReader text("recipe", {root.begin(), root.end()}, format, {});
    return parse_header(text.parameters(), format);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace formats
