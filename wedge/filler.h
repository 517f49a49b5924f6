// Gets what a mount lacks, in the background.
#pragma once

#include <cstdint>
#include <functional>

#include "vat/blob_source.h"

namespace wedge {

/// Reads every blob of a root once, so that it is here from then on. `is_over` is asked before each; then it
/// returns early. `progress`: content bytes that are here. Throws what reading throws.
void fill(vat::BlobSource& source, const vat::Root& root, const std::function<bool()>& is_over,
          const std::function<void(std::uint64_t)>& progress);

}  // namespace wedge
