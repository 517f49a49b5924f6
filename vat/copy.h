// Copying between vats: what some roots need, as it is, or whole vats.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vat/adder.h"
#include "vat/blob_source.h"
#include "vat/peer_address.h"
#include "vat/peer_set.h"
#include "vat/vat.h"

namespace vat {

struct CopySummary {
  std::uint64_t blobs = 0;         ///< that were not there
  std::uint64_t size = 0;          ///< their content bytes
  std::uint64_t stored_size = 0;   ///< bytes of the packs that were made for them
  std::vector<std::string> packs;  ///< names of those
};

struct CopyOptions {
  AddOptions add;                               ///< how what is copied is stored
  std::function<void(std::uint64_t)> progress;  ///< content bytes met so far
};

/// What an id is the root of, as far as the source can tell: a manifest (without its layout, so files come as
/// whatever recipe describes them), a layout, a recipe, else a file. Throws not_found, corrupt.
[[nodiscard]] Root root_of(BlobSource& source, const base::ObjectId& id);

/// Calls `visit` for each blob a root needs: texts, then what they name. Errors: as reading its texts.
void for_each_blob(BlobSource& source, const Root& root,
                   const std::function<void(const base::ObjectId&)>& visit);

/// Puts everything the roots need into a vat of the same object format (Category::usage), unless it is there;
/// recipes and chunks as they are. Returns when it is durable and the maps are written.
CopySummary copy_roots(BlobSource& from, const std::vector<Root>& roots, Vat& to, const CopyOptions& options);

/// The same into a vat on another host, which is made if there is none: packs first, then maps, then the list
/// of packs, so that no name is seen before its bytes. Nothing that is there is replaced, but for lists.
/// `scratch`: a directory for what is to be sent. Throws usage for a host that cannot be written, and as
/// PeerSet.
CopySummary push_roots(BlobSource& from, const std::vector<Root>& roots,
                       const chunker::Parameters& parameters, const PeerAddress& to, const PeerOptions& peer,
                       const std::string& scratch, const CopyOptions& options);

}  // namespace vat
