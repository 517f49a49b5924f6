// A vat on another host as something to be copied from or to.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "chunker/chunker.h"
#include "formats/base/file.h"
#include "vat/internal/peers.h"
#include "vat/internal/upload.h"
#include "vat/peer_set.h"

namespace vat::internal {

/// One thread at a time. Errors: as Peers and Upload.
class FarVat {
 public:
  FarVat(const PeerAddress& address, const PeerOptions& options);

  [[nodiscard]] const std::string& name() const { return peers_.name(0); }
  [[nodiscard]] Peers& peers() noexcept { return peers_; }
  /// nullopt: there is no vat.
  [[nodiscard]] std::optional<formats::VatSettings> settings() { return peers_.settings(0); }
  /// Names, in hex, as they are now; nullopt if the host does not tell.
  [[nodiscard]] std::optional<std::set<std::string>> packs();

  /// Throws usage if the host cannot be written.
  void require_writable() { (void)upload(); }
  void make(base::ObjectFormat format, const chunker::Parameters& parameters);
  /// A file that is there under the name is replaced only if `replace`.
  void put(const std::string& file, int fd, bool replace = false);
  void put(const std::string& file, base::Bytes bytes) { upload().put(file, bytes, true); }
  /// The list of packs, as the directory has them if the host tells, with `added` in any case.
  void put_pack_list(const std::vector<std::string>& added = {});

 private:
  Upload& upload();

  const PeerAddress address_;
  const TransferLimits limits_;
  Peers peers_;
  std::optional<Upload> upload_;
};

}  // namespace vat::internal
