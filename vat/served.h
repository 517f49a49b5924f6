// Which shrubs of this machine use a vat, so that whoever takes away what none needs asks all of them.
#pragma once

#include <string>
#include <vector>

#include "vat/vat.h"

namespace vat {

/// As it was when the vat last served it. Absolute paths.
struct ServedShrub {
  std::string path;
  std::string repository;  ///< git's directory, that all working trees of the repository share; empty: none
};

/// Remembers in the vat's `local/shrubs` that it serves this shrub, durably, unless that is known. Throws
/// local.
void note_served(Vat& vat, const ServedShrub& shrub);

/// In order of their paths. Throws refused for an entry that cannot be read: what that shrub needs is not
/// known.
[[nodiscard]] std::vector<ServedShrub> list_served(const Vat& vat);

/// False if the vat knows of no such shrub.
bool forget_served(Vat& vat, const std::string& path);

}  // namespace vat
