// A content of chunks as a disk.
#pragma once

#include <memory>

#include "formats/disk/disk.h"
#include "wedge/lazy_reader.h"

namespace wedge {

/// Reads what it is asked for. Errors: those of the reader, which outlives it.
[[nodiscard]] std::unique_ptr<formats::Disk> open_lazy_disk(LazyReader& reader, LazyReader::FilePtr file,
                                                            std::uint64_t size);

}  // namespace wedge
