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
/// Refuses a list of what is needed that is empty.
void check_needed(bool is_any);
/// `vat gc` by the `vat` of the host where that vat is. It is told how many ids there are: a connection that
/// breaks leaves fewer.
int gc_there(const std::string& url, const std::vector<std::string>& ids, const Call& call, Output& output);
/// What was done to a vat, or would be.
void print_gc(Output& output, const std::string& vat, const vat::RepackSummary& summary,
              const vat::RepackOptions& options);

}  // namespace cli
