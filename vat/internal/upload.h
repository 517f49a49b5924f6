// Writes files of a vat on another host, one after the other or several at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/base/bytes.h"
#include "vat/internal/host.h"
#include "vat/internal/transfers.h"

namespace vat::internal {

/// Failures that may pass are tried again a few times. Thread-safety: any thread. Errors: network,
/// authentication, refused; usage for a host that cannot be written.
class Upload {
 public:
  explicit Upload(const PeerAddress& address, const TransferLimits& limits = {});

  [[nodiscard]] const Host& host() const noexcept { return host_; }

  /// The first `size` bytes of `fd` as `file`, which appears whole or not at all. A file that is there under
  /// the name is replaced only if `replace`; else it is taken for the same.
  void put(const std::string& file, int fd, std::uint64_t size, bool replace);
  void put(const std::string& file, base::Bytes bytes, bool replace);

  [[nodiscard]] Transfers::Traffic traffic() const { return transfers_.traffic(); }

 private:
  struct Answer {
    TransferEnd end;
    std::string body;
  };
  using ReadAt = std::function<std::size_t(std::uint64_t offset, base::MutableBytes)>;
  Answer run(const std::string& what, const std::function<Transfer()>& make,
             std::size_t max_answer = SIZE_MAX);
  Answer require_done(const std::string& what, const std::function<Transfer()>& make);
  void put(const std::string& file, std::uint64_t size, const ReadAt& read, bool replace);
  void put_parts(const std::string& file, std::uint64_t size, const ReadAt& read);

  Host host_;
  Transfers transfers_;
};

}  // namespace vat::internal
