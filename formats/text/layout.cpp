#include "formats/text/layout.h"

#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, "layout: " + what);
}

}  // namespace

LayoutWriter::LayoutWriter(base::ObjectFormat format, PutText put)
    : format_(format), text_(TextWriter::Summary::first, std::move(put)) {}

void LayoutWriter::add(const base::ObjectId& blob, const base::ObjectId& recipe) {
  if (!first_ && blob <= last_) throw Error(Category::internal, "layout rows out of order");
  first_ = false;
  last_ = blob;
  const auto key = blob.hex();
  text_.add(key + " " + recipe.hex(), 0, key);
}

base::ObjectId LayoutWriter::finish() {
  return text_.finish("layout 1 " + std::string(base::to_string(format_)));
}

LayoutReader::LayoutReader(base::Buffer root, base::ObjectFormat format, GetText get)
    : format_(format), text_("layout", std::move(root), format, std::move(get)) {
  if (!text_.parameters().empty()) refuse("bad first line");
}

bool LayoutReader::next(base::ObjectId& blob, base::ObjectId& recipe) {
  std::string_view line;
  if (!text_.next(line)) return false;
  const auto blob_id = base::ObjectId::parse(format_, base::take_field(line, ' '));
  const auto recipe_id = base::ObjectId::parse(format_, line);
  if (!blob_id || !recipe_id) refuse("bad row");
  if (!first_ && *blob_id <= last_) refuse("rows out of order");
  first_ = false;
  last_ = blob = *blob_id;
  recipe = *recipe_id;
  return true;
}

}  // namespace formats
