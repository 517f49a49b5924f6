// Serves disks by NBD, the network block device protocol: doc/proto.md of the NBD project, fixed newstyle
// with structured replies, where the client wants them, and the metadata context base:allocation.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/error.h"
#include "formats/base/unique_fd.h"

namespace wedge {

/// What is served under one name. Its functions are called from any thread; what they throw becomes an I/O
/// error of that request.
struct NbdDisk {
  std::string name;
  std::uint64_t size = 0;  ///< bytes
  /// Fills `to`; all of it lies inside the disk.
  std::function<void(std::uint64_t at, base::MutableBytes to, const std::function<bool()>& is_over)> read;
  struct Run {
    std::uint64_t end = 0;
    bool is_hole = false;
  };
  std::function<Run(std::uint64_t at, const std::function<bool()>& is_over)> run_at;
  /// Empty: it is read-only.
  std::function<void(std::uint64_t at, base::Bytes, const std::function<bool()>& is_over)> write = {};
};

/// A socket that is bound and listens.
struct NbdSocket {
  base::UniqueFd fd;
  std::string path;  ///< absolute, of a unix socket; empty: another
  std::uint16_t port = 0;
  std::pair<dev_t, ino_t> name;  ///< what lies at the path
};
/// At `path`, at most 107 bytes, for this user only. Throws local; refused if something else is at the path;
/// busy if somebody listens there.
[[nodiscard]] NbdSocket listen_at(const std::string& path);
/// On 127.0.0.1; `port` 0: any.
[[nodiscard]] NbdSocket listen_on_loopback(std::uint16_t port);

/// Nothing a client sends is trusted. Errors: local.
class NbdServer {
 public:
  /// `on_failure`: told of each I/O error, from any thread. It must not throw when it is told "out of
  /// memory".
  NbdServer(NbdSocket listening, std::vector<NbdDisk> disks,
            std::function<void(const std::string&)> on_failure);
  /// Closes all connections, and removes the name of the socket.
  ~NbdServer();
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;

 private:
  class Connection;
  void accept_all();
  void tell(std::string_view who, const char* what) const noexcept;

  const NbdSocket listening_;
  const std::vector<NbdDisk> disks_;
  const std::function<void(const std::string&)> on_failure_;
  std::atomic<bool> is_over_ = false;
  std::thread acceptor_;
};

}  // namespace wedge
