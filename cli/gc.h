// What `vat gc` and `shrub gc` share.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/output.h"
#include "vat/repack.h"

namespace cli {

/// --grace and --dry-run.
[[nodiscard]] std::vector<Option> gc_options();
[[nodiscard]] vat::RepackOptions gc_options_of(const Call& call);
/// What was done to a vat, or would be.
void print_gc(Output& output, const std::string& vat, const vat::RepackSummary& summary,
              const vat::RepackOptions& options);

}  // namespace cli
