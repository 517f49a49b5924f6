// A verb of the program `vat` on the host where a vat is, by ssh. docs/design.md ("Taking away")
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "vat/peer_address.h"

namespace vat {

struct FarVerb {
  std::vector<std::string> words;  ///< "gc", "--grace", …, without --vat
  std::string_view input;          ///< what it reads
};

/// Runs it to its end and returns its exit code; `out` gets its data, `errors` its messages (1 MiB
/// of them). Throws usage if the vat is not one that ssh leads to, or the host has no such program; network;
/// authentication.
int run_there(const PeerAddress& vat, const FarVerb& verb, const base::ByteSink& out, std::string& errors);

}  // namespace vat
