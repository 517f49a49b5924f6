// Which chunks a run touched, in the order of the first touch. docs/formats/machine.md ("Traces")
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/base/object_id.h"

namespace formats {

/// The first line, without its end. An id a line follows.
[[nodiscard]] std::string trace_header(base::ObjectFormat format);

/// Throws refused if it is no trace of that object format.
[[nodiscard]] std::vector<base::ObjectId> parse_trace(std::string_view text, base::ObjectFormat format);

}  // namespace formats
