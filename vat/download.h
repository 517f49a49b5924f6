// Getting one file from somewhere by its URL.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/base/hash.h"
#include "vat/peer_set.h"

namespace vat {

struct Downloaded {
  std::uint64_t size = 0;
  base::Sha256::Digest sha256{};
  std::string etag, modified;  ///< as the host says; empty: it does not
  std::string url;             ///< where redirects led
};

/// Appends what an http or https URL leads to to a file, which has to be empty. What is cut off goes on where
/// it ended, if the host lets it, a few times. Throws usage for another kind of URL; not_found, network,
/// authentication, refused; local.
Downloaded download(const std::string& url, int fd, const PeerOptions& options,
                    const std::function<void(std::uint64_t done, std::uint64_t total)>& progress);

}  // namespace vat
