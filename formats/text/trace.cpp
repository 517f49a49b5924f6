#include "formats/text/trace.h"

#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace formats {

using base::Category;
using base::Error;

std::string trace_header(base::ObjectFormat format) {
  return "trace 1 " + std::string(base::to_string(format));
}

std::vector<base::ObjectId> parse_trace(std::string_view text, base::ObjectFormat format) {
  if (base::take_field(text, '\n') != trace_header(format))
    throw Error(Category::refused, "not a trace of " + std::string(base::to_string(format)));
  std::vector<base::ObjectId> ids;
  while (!text.empty()) {
    const auto id = base::ObjectId::parse(format, base::take_field(text, '\n'));
    if (!id) throw Error(Category::refused, "bad line " + std::to_string(ids.size() + 2));
    ids.push_back(*id);
  }
  return ids;
}

}  // namespace formats
