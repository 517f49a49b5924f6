// Answers, over two pipes, what another vat lacks of a root. docs/formats/serve.md
#pragma once

#include <functional>

#include "formats/base/bytes.h"
#include "vat/vat.h"

namespace vat {

/// Returns when `read` gives 0, between two requests. Only reads the vat. Memory: as make_delta(), and a bit
/// for each blob that is asked for. Throws corrupt for what is no request, and whatever reading the vat
/// throws.
void serve(Vat& vat, const std::function<std::size_t(base::MutableBytes)>& read, const base::ByteSink& write);

}  // namespace vat
