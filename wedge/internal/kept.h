// What a file system kept of an entry, where that is not what was asked for: no modes, coarse times, no hard
// links. It is written down beside what was asked for, and a later look compares with it.
#pragma once

#include <cstdint>
#include <string>

#include "wedge/internal/record.h"
#include "wedge/tree_writer.h"

namespace wedge::internal {

/// Copies the rows of the record `from` to `to`, each with what lies in the tree `top` instead, where that
/// differs. Content is not looked at. Returns how many differ.
std::uint64_t add_kept(int records, const std::string& from, int top, base::ObjectFormat format,
                       const Fidelity& fidelity, RecordWriter& to);

/// `wanted`, with the rows that the file system kept otherwise, as the record `name` says, in their place.
/// `used` counts them; both are there as long as the result.
[[nodiscard]] NextRow as_kept(NextRow wanted, int records, const std::string& name, std::uint64_t& used);

}  // namespace wedge::internal
