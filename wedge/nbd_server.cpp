#include "wedge/nbd_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>

#include "formats/base/endian.h"
#include "formats/base/file.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kThreads = 8;  ///< of a connection: requests that are answered at a time
constexpr std::size_t kMaxConnections = 16;
constexpr std::time_t kPatience = 10;  ///< seconds, with a client that has not said which disk it wants
/// Bytes of a read or write; what clients that negotiate nothing may ask for. Larger ones than kPiece take no
/// more memory: they are read and written in pieces.
constexpr std::uint32_t kMaxRequest = std::uint32_t{32} << 20, kPiece = std::uint32_t{4} << 20;
constexpr std::uint32_t kMaxOption = 4096;  ///< bytes
constexpr std::uint32_t kAllocation = 1;    ///< number of the context base:allocation
constexpr std::string_view kAllocationName = "base:allocation";
constexpr std::size_t kMaxRuns = 4096;  ///< in one answer

// The handshake.
constexpr std::uint64_t kMagic = 0x4e42444d41474943, kOptionMagic = 0x49484156454f5054,
                        kReplyMagic = 0x3e889045565a9;
constexpr std::uint16_t kFixedNewstyle = 1, kNoZeroes = 2;
enum Option : std::uint32_t {
  export_name = 1,
  abort_it = 2,
  list = 3,
  info = 6,
  go = 7,
  structured = 8,
  list_context = 9,
  set_context = 10
};
constexpr std::uint32_t kAck = 1, kServer = 2, kInfo = 3, kContext = 4;
constexpr std::uint32_t kUnsupported = 0x80000001, kInvalid = 0x80000003, kUnknown = 0x80000006;

// Transmission.
constexpr std::uint16_t kHasFlags = 1, kReadOnly = 2, kSendFlush = 4, kSendFua = 8, kSendZeroes = 64,
                        kMultiConnection = 256, kSendCache = 1024;
constexpr std::uint32_t kRequestMagic = 0x25609513, kSimpleMagic = 0x67446698, kStructuredMagic = 0x668e33ef;
enum Type : std::uint16_t {
  read_ = 0,
  write_ = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7
};
constexpr std::uint16_t kOneRun = 8;  // request flag
constexpr std::uint16_t kDone = 1;    // reply flag
constexpr std::uint16_t kChunkNone = 0, kChunkData = 1, kChunkStatus = 5, kChunkError = 0x8001;
constexpr std::uint32_t kHoleAndZero = 3;

/// The client is gone, or does not speak the protocol.
struct Over {};

}  // namespace

class NbdServer::Connection {
 public:
  Connection(NbdServer& server, base::UniqueFd socket) : server_(server), socket_(std::move(socket)) {
    const int yes = 1;
    (void)::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);  // a unix socket has none
  }

  void run() {
    try {
      set_patience(kPatience);
      shake_hands();
      if (disk_ == nullptr) return;
      set_patience(0);
      std::vector<std::jthread> others;
      try {
        for (std::size_t i = 1; i < kThreads; ++i) others.emplace_back([this] { answer_all(); });
      } catch (const std::system_error&) {  // those that are there do
      }
      answer_all();
    } catch (const Over&) {
    } catch (const std::exception& error) {  // out of memory; the client is told by the end
      server_.tell("a client", error.what());
    }
  }

  void close() { (void)::shutdown(socket_.get(), SHUT_RDWR); }

 private:
  void set_patience(std::time_t seconds) {
    const timeval time{seconds, 0};
    (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  }

  void receive(base::MutableBytes to) {
    while (!to.empty()) {
      const auto count = ::recv(socket_.get(), to.data(), to.size(), 0);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) throw Over{};
      to = to.subspan(static_cast<std::size_t>(count));
    }
  }
  template <typename T>
  T receive() {
    std::array<std::byte, sizeof(T)> bytes{};
    receive(bytes);
    return base::load_be<T>(bytes.data());
  }
  void send(base::Bytes bytes, bool more = false) {
    while (!bytes.empty()) {
      const auto count =
          ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | (more ? MSG_MORE : 0));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) throw Over{};
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  // --- the handshake

  void reply(std::uint32_t option, std::uint32_t type, base::Bytes data = {}) {
    base::Buffer bytes;
    base::append_be(bytes, kReplyMagic);
    base::append_be(bytes, option);
    base::append_be(bytes, type);
    base::append_be(bytes, static_cast<std::uint32_t>(data.size()));
    base::append(bytes, data);
    send(bytes);
  }

  void shake_hands() {
    base::Buffer hello;
    base::append_be(hello, kMagic);
    base::append_be(hello, kOptionMagic);
    base::append_be(hello, static_cast<std::uint16_t>(kFixedNewstyle | kNoZeroes));
    send(hello);
    const auto flags = receive<std::uint32_t>();
    if (flags & ~std::uint32_t{kFixedNewstyle | kNoZeroes}) throw Over{};
    while (disk_ == nullptr) {
      if (receive<std::uint64_t>() != kOptionMagic) throw Over{};
      const auto option = receive<std::uint32_t>();
      const auto size = receive<std::uint32_t>();
      if (size > kMaxOption) throw Over{};
      base::Buffer data(size);
      receive(data);
      if (!answer_option(option, data, (flags & kNoZeroes) != 0)) return;
    }
  }

  /// False if the client wants to go.
  bool answer_option(std::uint32_t option, base::Bytes data, bool no_zeroes) {
    switch (option) {
      case export_name:
        return begin_old(data, no_zeroes);
      case abort_it:
        reply(option, kAck);
        return false;
      case list:
        if (!data.empty()) return reply(option, kInvalid), true;
        for (const auto& disk : server_.disks_) {
          base::Buffer name;
          base::append_be(name, static_cast<std::uint32_t>(disk.name.size()));
          base::append(name, base::as_bytes(disk.name));
          reply(option, kServer, name);
        }
        return reply(option, kAck), true;
      case info:
      case go:
        return answer_info(option, data), true;
      case structured:
        is_structured_ = data.empty();
        return reply(option, data.empty() ? kAck : kInvalid), true;
      case list_context:
      case set_context:
        return answer_context(option, data), true;
      default:
        return reply(option, kUnsupported), true;
    }
  }

  const NbdDisk* find_disk(std::string_view name) const {
    for (const auto& disk : server_.disks_)
      if (disk.name == name) return &disk;
    return name.empty() && !server_.disks_.empty() ? &server_.disks_.front() : nullptr;
  }

  std::uint16_t flags_of(const NbdDisk& disk) const {
    const int flags = kHasFlags | kSendFlush | kSendCache;
    return static_cast<std::uint16_t>(disk.write ? flags | kSendFua | kSendZeroes
                                                 : flags | kReadOnly | kMultiConnection);
  }

  /// The oldest form: no way to say no but to go.
  bool begin_old(base::Bytes name, bool no_zeroes) {
    const auto* disk = find_disk(base::as_chars(name));
    if (disk == nullptr) return false;
    base::Buffer bytes;
    base::append_be(bytes, disk->size);
    base::append_be(bytes, flags_of(*disk));
    if (!no_zeroes) bytes.resize(bytes.size() + 124);
    send(bytes);
    disk_ = disk;
    return true;
  }

  /// Takes a string with its size before it off the front; nullopt if there is none.
  static std::optional<std::string_view> take_string(base::Bytes& data) {
    if (data.size() < 4) return std::nullopt;
    const auto size = base::load_be<std::uint32_t>(data.data());
    data = data.subspan(4);
    if (size > data.size()) return std::nullopt;
    const auto text = base::as_chars(data.first(size));
    data = data.subspan(size);
    return text;
  }

  void answer_info(std::uint32_t option, base::Bytes data) {
    const auto name = take_string(data);
    if (!name || data.size() < 2 ||
        data.size() != 2 + 2 * std::size_t{base::load_be<std::uint16_t>(data.data())})
      return reply(option, kInvalid);
    const auto* disk = find_disk(*name);
    if (disk == nullptr) return reply(option, kUnknown);
    base::Buffer what;
    base::append_be(what, std::uint16_t{0});  // size and flags
    base::append_be(what, disk->size);
    base::append_be(what, flags_of(*disk));
    reply(option, kInfo, what);
    what.clear();
    base::append_be(what, std::uint16_t{3});  // sizes of requests
    base::append_be(what, std::uint32_t{1});
    base::append_be(what, std::uint32_t{65536});
    base::append_be(what, kMaxRequest);
    reply(option, kInfo, what);
    reply(option, kAck);
    if (option == go) disk_ = disk;
  }

  void answer_context(std::uint32_t option, base::Bytes data) {
    const auto name = take_string(data);
    if (!name || data.size() < 4 || !is_structured_) return reply(option, kInvalid);
    auto count = base::load_be<std::uint32_t>(data.data());
    data = data.subspan(4);
    bool wanted = count == 0 && option == list_context;
    for (; count > 0; --count) {
      const auto query = take_string(data);
      if (!query) return reply(option, kInvalid);
      wanted = wanted || *query == kAllocationName || (option == list_context && *query == "base:");
    }
    if (find_disk(*name) == nullptr) return reply(option, kUnknown);
    if (option == set_context) has_context_ = wanted;
    if (wanted) {
      base::Buffer context;
      base::append_be(context, kAllocation);
      base::append(context, base::as_bytes(kAllocationName));
      reply(option, kContext, context);
    }
    reply(option, kAck);
  }

  // --- transmission

  struct Request {
    std::uint16_t flags, type;
    std::uint64_t cookie, at;
    std::uint32_t size;
    int failure = 0;  ///< errno
  };

  /// Threads take turns at reading requests, and answer them side by side.
  void answer_all() {
    try {
      base::Buffer data;
      while (true) {
        const auto request = next(data);
        if (request.type == disconnect) break;
        answer(request, data);
      }
    } catch (const Over&) {
    } catch (const std::exception& error) {
      server_.tell("a client", error.what());
    }
    close();
  }

  Request next(base::Buffer& data) {
    const std::lock_guard turn(receiving_);
    std::array<std::byte, 28> bytes{};
    receive(bytes);
    if (base::load_be<std::uint32_t>(bytes.data()) != kRequestMagic) throw Over{};
    Request request{
        base::load_be<std::uint16_t>(bytes.data() + 4), base::load_be<std::uint16_t>(bytes.data() + 6),
        base::load_be<std::uint64_t>(bytes.data() + 8), base::load_be<std::uint64_t>(bytes.data() + 16),
        base::load_be<std::uint32_t>(bytes.data() + 24)};
    if (request.at > disk_->size || request.size > disk_->size - request.at) request.failure = EINVAL;
    if (request.type != write_) return request;
    if (request.size > kMaxRequest) throw Over{};
    for (; request.size > kPiece; request.at += kPiece, request.size -= kPiece) {
      data.resize(kPiece);
      receive(data);
      if (request.failure == 0) request.failure = attempt([&] { return write(request, data); });
    }
    data.resize(request.size);
    receive(data);
    return request;
  }

  /// What of errno a request ends with; `work` gives it, or throws.
  template <typename Work>
  int attempt(const Work& work) const {
    try {
      return work();
    } catch (const Error& error) {
      if (error.category() != Category::busy) server_.tell(disk_->name, error.what());
    } catch (const Over&) {
      throw;
    } catch (const std::exception& error) {
      server_.tell(disk_->name, error.what());
    }
    return EIO;
  }

  void answer(const Request& request, base::Buffer& data) {
    if (request.failure != 0) return send_result(request, request.failure);
    base::Buffer runs;
    switch (request.type) {
      case read_:
        return answer_read(request, data);
      case write_:
      case write_zeroes:
      case trim:
        return send_result(request, attempt([&] { return write(request, data); }));
      case block_status: {
        const auto failure = attempt([&] {
          if (!has_context_ || request.size == 0) return EINVAL;
          runs = find_runs(request, is_over());
          return 0;
        });
        return failure == 0 ? send_chunk(request, kChunkStatus, runs) : send_result(request, failure);
      }
      default:
        return send_result(request, request.type == flush || request.type == cache ? 0 : EINVAL);
    }
  }

  void answer_read(const Request& request, base::Buffer& data) {
    if (request.size > kMaxRequest || request.size == 0) return send_result(request, EINVAL);
    std::unique_lock turn(sending_, std::defer_lock);
    for (std::uint32_t done = 0; done < request.size;) {
      data.resize(std::min(kPiece, request.size - done));
      const auto failure = attempt([&] {
        disk_->read(request.at + done, data, is_over());
        return 0;
      });
      // An answer that is one piece to the client cannot become an error any more.
      if (failure != 0 && turn.owns_lock()) throw Over{};
      if (failure != 0) return send_result(request, failure);
      base::Buffer head;
      const bool is_last = done + data.size() == request.size;
      if (is_structured_) {
        append_chunk_head(head, request, kChunkData, data.size() + 8, is_last);
        base::append_be(head, request.at + done);
      } else if (done == 0) {
        base::append_be(head, kSimpleMagic);
        base::append_be(head, std::uint32_t{0});
        base::append_be(head, request.cookie);
      }
      if (!turn.owns_lock()) turn.lock();
      send(head, true);
      send(data);
      if (is_structured_) turn.unlock();
      done += static_cast<std::uint32_t>(data.size());
    }
  }

  int write(const Request& request, base::Bytes data) {
    if (!disk_->write) return EPERM;
    if (request.type == trim) return 0;
    if (request.type == write_) {
      disk_->write(request.at, data, is_over());
      return 0;
    }
    const base::Buffer zeros(std::min<std::uint32_t>(request.size, 1 << 20));
    for (std::uint64_t done = 0; done < request.size; done += zeros.size())
      disk_->write(request.at + done,
                   base::Bytes(zeros).first(
                       static_cast<std::size_t>(std::min<std::uint64_t>(zeros.size(), request.size - done))),
                   is_over());
    return 0;
  }

  base::Buffer find_runs(const Request& request, const std::function<bool()>& is_over) const {
    base::Buffer runs;
    base::append_be(runs, kAllocation);
    const auto end = request.at + request.size;
    std::size_t count = 0;
    for (auto at = request.at; at < end && count < kMaxRuns; ++count) {
      const auto run = disk_->run_at(at, is_over);
      const auto to = std::min(run.end, end);
      if (to <= at) throw Error(Category::internal, "a run of no bytes");
      base::append_be(runs, static_cast<std::uint32_t>(to - at));
      base::append_be(runs, run.is_hole ? kHoleAndZero : std::uint32_t{0});
      at = to;
      if (request.flags & kOneRun) break;
    }
    return runs;
  }

  void send_result(const Request& request, int failure) {
    if (is_structured_ && (failure != 0 || request.type == read_ || request.type == block_status)) {
      base::Buffer error;
      base::append_be(error, static_cast<std::uint32_t>(failure));
      base::append_be(error, std::uint16_t{0});
      return send_chunk(request, failure != 0 ? kChunkError : kChunkNone,
                        failure != 0 ? base::Bytes(error) : base::Bytes());
    }
    base::Buffer bytes;
    base::append_be(bytes, kSimpleMagic);
    base::append_be(bytes, static_cast<std::uint32_t>(failure));
    base::append_be(bytes, request.cookie);
    const std::lock_guard turn(sending_);
    send(bytes);
  }

  void send_chunk(const Request& request, std::uint16_t type, base::Bytes payload) {
    base::Buffer bytes;
    append_chunk_head(bytes, request, type, payload.size());
    base::append(bytes, payload);
    const std::lock_guard turn(sending_);
    send(bytes);
  }

  static void append_chunk_head(base::Buffer& bytes, const Request& request, std::uint16_t type,
                                std::size_t size, bool is_last = true) {
    base::append_be(bytes, kStructuredMagic);
    base::append_be(bytes, is_last ? kDone : std::uint16_t{0});
    base::append_be(bytes, type);
    base::append_be(bytes, request.cookie);
    base::append_be(bytes, static_cast<std::uint32_t>(size));
  }

  std::function<bool()> is_over() const {
    return [this] { return server_.is_over_ || is_gone(); };
  }

  /// Whoever reads for it need not wait on.
  bool is_gone() const {
    pollfd poll{socket_.get(), POLLRDHUP, 0};
    return ::poll(&poll, 1, 0) > 0 && (poll.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }

  NbdServer& server_;
  const base::UniqueFd socket_;
  const NbdDisk* disk_ = nullptr;
  bool is_structured_ = false, has_context_ = false;
  std::mutex receiving_, sending_;  ///< the turn to read a request; to write an answer
};

NbdServer::NbdServer(NbdSocket listening, std::vector<NbdDisk> disks,
                     std::function<void(const std::string&)> on_failure)
    : listening_(std::move(listening)),
      disks_(std::move(disks)),
      on_failure_(std::move(on_failure)),
      acceptor_([this] { accept_all(); }) {}

NbdServer::~NbdServer() {
  is_over_ = true;
  (void)::shutdown(listening_.fd.get(), SHUT_RDWR);
  acceptor_.join();
  // Somebody else may have put a socket of theirs there.
  struct stat there {};
  if (!listening_.path.empty() && ::lstat(listening_.path.c_str(), &there) == 0 &&
      std::pair(there.st_dev, there.st_ino) == listening_.name)
    (void)::unlink(listening_.path.c_str());
}

void NbdServer::tell(std::string_view who, const char* what) const noexcept {
  if (!on_failure_) return;
  try {
    on_failure_(who.empty() ? what : std::string(who) + ": " + what);
  } catch (const std::exception&) {
    on_failure_("out of memory");  // which takes none
  }
}

void NbdServer::accept_all() {
  struct Served {
    std::unique_ptr<Connection> connection;
    std::atomic<bool> is_done = false;
    std::jthread thread;  // last: uses the rest
  };
  std::list<Served> all;
  while (!is_over_) {
    pollfd poll{listening_.fd.get(), POLLIN, 0};
    (void)::poll(&poll, 1, 200);
    all.remove_if([](const Served& one) { return one.is_done.load(); });
    if ((poll.revents & POLLIN) == 0) continue;
    base::UniqueFd socket(::accept4(listening_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket.get() >= 0 && all.size() >= kMaxConnections)
      tell("a client was turned away", (std::to_string(kMaxConnections) + " are served already").c_str());
    if (socket.get() < 0 || all.size() >= kMaxConnections) continue;
    const auto count = all.size();
    try {
      auto& one = all.emplace_back();
      one.connection = std::make_unique<Connection>(*this, std::move(socket));
      one.thread = std::jthread([&one] {
        one.connection->run();
        one.connection->close();  // the client need not wait until somebody clears up
        one.is_done = true;
      });
    } catch (const std::exception& error) {  // no thread, no memory
      all.resize(count);
      tell("a client was turned away", error.what());
    }
  }
  for (auto& one : all) one.connection->close();
}

namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw Error(Category::usage, path + ": too long for the name of a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

base::UniqueFd unix_socket() {
  base::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) base::throw_errno("socket", errno);
  return socket;
}

}  // namespace

NbdSocket listen_at(const std::string& path) {
  const auto address = address_of(path);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  struct stat there {};
  if (::lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode)) throw Error(Category::refused, path + ": something else is there");
    if (::connect(unix_socket().get(), name, sizeof address) == 0 || errno == EAGAIN)
      throw Error(Category::busy, path + ": somebody serves there");
    (void)::unlink(path.c_str());
  }
  auto socket = unix_socket();
  (void)::fchmod(socket.get(), 0600);  // becomes the mode of the name
  if (::bind(socket.get(), name, sizeof address) != 0 || ::listen(socket.get(), 8) != 0 ||
      ::lstat(path.c_str(), &there) != 0)
    base::throw_errno(path, errno);
  return {std::move(socket),
          std::filesystem::absolute(path).lexically_normal().string(),
          0,
          {there.st_dev, there.st_ino}};
}

NbdSocket listen_on_loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  base::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) base::throw_errno("socket", errno);
  const int yes = 1;
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  socklen_t size = sizeof address;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(socket.get(), 8) != 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    base::throw_errno("port " + std::to_string(port), errno);
  return {std::move(socket), {}, ntohs(address.sin_port), {}};
}

}  // namespace wedge
