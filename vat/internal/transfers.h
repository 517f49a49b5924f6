// Many transfers at once by libcurl's multi interface, and the thread they all run on.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/error.h"

namespace vat::internal {

using Clock = std::chrono::steady_clock;

/// Some bytes of a file. From the end: the last `size` bytes, or all if there are fewer.
struct FileRange {
  std::uint64_t offset = 0;
  std::uint64_t size = UINT64_MAX;  ///< UINT64_MAX: to the end
  bool from_end = false;
  [[nodiscard]] bool is_whole() const noexcept { return offset == 0 && size == UINT64_MAX && !from_end; }
};

/// How a transfer ended, as far as whoever wants the bytes has to know.
struct TransferEnd {
  enum class Kind : std::uint8_t {
    done,
    absent,          ///< the host says there is no such file
    range,           ///< the host says the file does not reach that far
    exists,          ///< put only if absent: it was there
    authentication,  ///< the host wants other credentials
    refused,         ///< we do not go there: an address nobody consented to, a redirect that leads elsewhere
    failed,          ///< anything else; may be retried
    local            ///< no memory, no socket; or the receiver threw
  };
  Kind kind = Kind::failed;
  std::string message;                       ///< why, without the name of the host
  std::optional<std::chrono::seconds> wait;  ///< the host asks to be left alone for so long
  std::optional<std::uint64_t> file_size;    ///< of the whole file, if told
  std::string etag, modified, place;  ///< what the host says of the file; the URL it came from in the end
  std::uint64_t received = 0;         ///< body bytes
  std::chrono::microseconds first_byte{0};  ///< from the start to the first byte of the answer
  bool ranges_ignored = false;              ///< the whole file came although a range was asked for
  /// Of a failure: the host is there and has no time (429, 502, 503, 504, or it says how long to wait).
  bool is_busy = false;
  bool is_cut = false;          ///< the connection was refused or ended before a byte came
  Clock::time_point started{};  ///< when it was asked for
};

/// How a failure of that kind is called; absent: not_found.
[[nodiscard]] base::Category category_of(TransferEnd::Kind kind);

struct Transfer {
  std::string url;
  FileRange range;
  std::uint64_t max_size = UINT64_MAX;  ///< body bytes; more is a failure
  std::string method = "GET";           ///< HTTP; PUT also for a file over SFTP
  std::vector<std::string> headers;
  base::Buffer body;                                         ///< sent, if there is no `read_body`
  std::function<std::size_t(base::MutableBytes)> read_body;  ///< the next bytes to send; 0 at the end
  std::uint64_t body_size = 0;                               ///< with read_body
  bool sends_body = false;
  std::string user, password;  ///< never printed
  std::string signature;  ///< "aws:amz:<region>:s3": signs with user and password (AWS signature, version 4)
  bool may_be_local = false;         ///< loopback and link-local addresses were consented to
  bool is_s3 = false;                ///< the text of an error says what is wrong, see s3_error.h
  bool forbidden_is_absent = false;  ///< status 403 may mean that there is no such file
  bool may_redirect = true;
  std::string ssh_private_key, ssh_known_hosts;
  std::vector<std::string> ssh_after;  ///< SFTP commands after a put
  bool list_directory = false;         ///< SFTP: the body is names, one a line

  /// Body bytes of a good answer, of the range asked for only. False: that is enough, `on_end` says done.
  std::function<bool(base::Bytes)> on_bytes;
  /// Called once, unless the transfer is cancelled.
  std::function<void(const TransferEnd&)> on_end;
};

/// Limits of every transfer.
struct TransferLimits {
  std::chrono::milliseconds connect{5000};
  std::chrono::milliseconds stall{
      4000};  ///< with less than stall_size in that time, or up to twice of it, it is over
  std::uint64_t stall_size = 1024;  ///< bytes
  std::uint64_t rate = 0;           ///< bytes a second of all transfers together, both ways; 0: any
  std::string certificates;         ///< file of those to trust, instead of the system's; empty: the system's
  /// The proxy for a host, empty: none. For what may lead to no local address; else libcurl reads the
  /// variables.
  std::function<std::string(std::string_view scheme, std::string_view host)> proxy_for;
};

/// Whether a host as a URL has it is this machine, or an address of the link only, in whatever spelling:
/// 127.1, 0x7f000001, [::ffff:127.0.0.1], localhost., x.localhost. False for any other name: only looking it
/// up would tell.
[[nodiscard]] bool is_local_host(std::string_view host);

/// Everything about transfers happens on one thread, the loop: it calls back, runs timers and what is posted.
/// Only post(), call(), begin(), traffic() and the destructor may be used from others.
class Transfers {
 public:
  explicit Transfers(const TransferLimits& limits);
  /// Ends all; nothing is called back any more.
  ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  void post(std::function<void()> work);
  /// Runs `work` on the loop and returns what it does.
  template <typename Work>
  auto call(Work work) -> decltype(work()) {
    // shared: std::function has to be copyable
    auto task = std::make_shared<std::packaged_task<decltype(work())()>>(std::move(work));
    auto result = task->get_future();
    post([task] { (*task)(); });
    return result.get();
  }

  /// Starts a transfer, whose `on_end` is not used. Do not wait for it on the loop.
  [[nodiscard]] std::future<TransferEnd> begin(Transfer transfer);

  using Id = std::uint64_t;
  Id start(Transfer transfer);
  void cancel(Id id);
  /// Runs `work` at that time, once.
  Id at(Clock::time_point time, std::function<void()> work);
  void cancel_timer(Id id);

  /// Body bytes received by all transfers so far; requests made.
  struct Traffic {
    std::uint64_t requests = 0, received = 0, sent = 0;
  };
  [[nodiscard]] Traffic traffic() const;

 private:
  struct Active;
  struct State;
  void run();
  void fire_timers();
  void check_stalls();
  void finish(Active& active, int code);
  [[nodiscard]] std::chrono::milliseconds idle_time() const;

  const TransferLimits limits_;
  std::unique_ptr<State> state_;
  std::thread thread_;  // last: uses the rest
};

}  // namespace vat::internal
