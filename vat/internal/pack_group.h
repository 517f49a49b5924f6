// A group on its way from a peer.
#pragma once

#include <memory>
#include <string>

#include "formats/base/bytes.h"
#include "formats/pack/pack.h"

namespace vat::internal {

/// A group of a pack, wherever that is to be had.
struct PackGroup {
  std::string pack;  ///< SHA-256 in hex
  formats::GroupPlace place{};
};

/// A proven group: what came, and what it holds.
struct FetchedGroup {
  base::Buffer bytes;                                    ///< header and frame
  std::shared_ptr<const formats::DecodedGroup> content;  // shared: with readers. Blobs are named.
};

}  // namespace vat::internal
