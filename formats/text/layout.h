// Layouts: which recipe each chunked file of a tree has. docs/formats/text-objects.md, "Layout"
#pragma once

#include <vector>

#include "formats/base/object_id.h"
#include "formats/text/text_object.h"

namespace formats {

/// Writes a layout; rows by ascending blob id, each once (Category::internal if not).
class LayoutWriter {
 public:
  LayoutWriter(base::ObjectFormat format, PutText put);
  void add(const base::ObjectId& blob, const base::ObjectId& recipe);
  [[nodiscard]] base::ObjectId finish();

 private:
  base::ObjectFormat format_;
  TextWriter text_;
  base::ObjectId last_;
  bool first_ = true;
};

/// Reads a layout in order; refuses disorder and duplicates.
class LayoutReader {
 public:
  LayoutReader(base::Buffer root, base::ObjectFormat format, GetText get);
  [[nodiscard]] bool next(base::ObjectId& blob, base::ObjectId& recipe);

 private:
  base::ObjectFormat format_;
  TextReader text_;
  base::ObjectId last_;
  bool first_ = true;
};

}  // namespace formats
