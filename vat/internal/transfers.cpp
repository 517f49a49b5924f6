#include "vat/internal/transfers.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <deque>

#include "formats/base/c_ptr.h"
#include "formats/base/numbers.h"
#include "formats/base/utf8.h"
#include "vat/internal/s3_error.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using std::chrono::milliseconds;

using EasyHandle = base::CPtr<CURL, curl_easy_cleanup>;
using MultiHandle = base::CPtr<CURLM, curl_multi_cleanup>;
using CurlList = base::CPtr<curl_slist, curl_slist_free_all>;

constexpr long kRedirects = 5;
constexpr long kConnections = 64;  ///< kept open
constexpr long kReceiveBuffer = 512 * 1024;
constexpr std::size_t kMaxErrorText = std::size_t{8} << 10;
constexpr std::size_t kMaxHeader = std::size_t{64} << 10;  ///< bytes of all headers of an answer
constexpr milliseconds kStallCheck{250}, kRateStep{20};
constexpr std::size_t kIdleHandles = 32;

void init_curl() {
  static const bool done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  if (!done) throw Error(Category::local, "libcurl cannot be started");
}

void append(CurlList& list, const std::string& text) {
  auto* longer = curl_slist_append(list.get(), text.c_str());
  if (longer == nullptr) throw Error(Category::local, "out of memory");
  (void)list.release();
  list.reset(longer);
}

/// Whether the address leads to this machine or is of the link only.
bool is_local(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto number = ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr);
    return number >> 24 == 127 || number >> 24 == 0 || number >> 16 == 0xa9fe;
  }
  if (address.sa_family != AF_INET6) return true;  // none of the kinds that lead elsewhere
  const auto& six = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  const auto is_local_four = [&](int at) {
    sockaddr_in four{};
    four.sin_family = AF_INET;
    std::copy_n(six.s6_addr + at, 4, reinterpret_cast<unsigned char*>(&four.sin_addr));
    return is_local(reinterpret_cast<const sockaddr&>(four));
  };
  // Ways to write an address of IPv4: mapped, compatible, translated (RFC 6052, RFC 2765), 6to4 (RFC 3056).
  constexpr unsigned char kNat64[12] = {0, 0x64, 0xff, 0x9b},
                          kTranslated[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (IN6_IS_ADDR_V4MAPPED(&six) || IN6_IS_ADDR_V4COMPAT(&six) ||
      std::equal(std::begin(kNat64), std::end(kNat64), six.s6_addr) ||
      std::equal(std::begin(kTranslated), std::end(kTranslated), six.s6_addr))
    return is_local_four(12);
  if (six.s6_addr[0] == 0x20 && six.s6_addr[1] == 2) return is_local_four(2);
  return IN6_IS_ADDR_LOOPBACK(&six) || IN6_IS_ADDR_LINKLOCAL(&six) || IN6_IS_ADDR_UNSPECIFIED(&six);
}

bool is_local(const std::string& address) {
  sockaddr_in four{};
  sockaddr_in6 six{};
  four.sin_family = AF_INET;
  six.sin6_family = AF_INET6;
  if (::inet_pton(AF_INET, address.c_str(), &four.sin_addr) == 1)
    return is_local(reinterpret_cast<const sockaddr&>(four));
  return ::inet_pton(AF_INET6, address.c_str(), &six.sin6_addr) == 1 &&
         is_local(reinterpret_cast<const sockaddr&>(six));
}

/// As libcurl takes what a redirect leads to.
constexpr unsigned kAsRedirects = CURLU_URLENCODE | CURLU_ALLOW_SPACE;

/// Scheme and host of a URL, the host decoded; of `text` relative to `base`. Empty if it is none.
struct Place {
  std::string scheme, host;
};
Place place_of(const std::string& base, const std::string& text) {
  const base::CPtr<CURLU, curl_url_cleanup> url(curl_url());
  Place place;
  if (url == nullptr ||
      (!base.empty() && curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK) ||
      curl_url_set(url.get(), CURLUPART_URL, text.c_str(), kAsRedirects) != CURLUE_OK)
    return place;
  for (const auto& [part, to] : {std::pair(CURLUPART_SCHEME, &place.scheme), {CURLUPART_HOST, &place.host}}) {
    char* raw = nullptr;
    if (curl_url_get(url.get(), part, &raw, CURLU_URLDECODE) != CURLUE_OK) return {};
    const base::CPtr<char, curl_free> owned(raw);
    *to = raw;
  }
  return place;
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

/// What comes from outside goes into messages without its control characters.
std::string printable(std::string_view text) {
  std::string result(text.substr(0, 300));
  for (auto& c : result)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return result;
}

}  // namespace

bool is_local_host(std::string_view written) {
  auto host = lower(written);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  host = host.substr(0, host.find('%'));  // the zone of an address
  while (host.ends_with('.')) host.pop_back();
  if (host.empty() || host == "localhost" || host.ends_with(".localhost") ||
      host.ends_with("localhost.localdomain") || host == "ip6-localhost" || host == "ip6-loopback")
    return true;
  if (char own[256] = {}; ::gethostname(own, sizeof own - 1) == 0 && host == lower(own)) return true;
  // What is not ASCII may become anything by the rules of international names.
  if (std::any_of(host.begin(), host.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; }))
    return true;
  in_addr four{};
  if (::inet_aton(host.c_str(), &four) == 1) {  // in all its spellings
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr = four;
    return is_local(reinterpret_cast<const sockaddr&>(address));
  }
  return is_local(host);
}

struct Transfers::Active {
  Id id = 0;
  State* state = nullptr;
  Transfer what;
  TransferEnd end;
  EasyHandle easy;
  CurlList headers, ssh_after;
  std::array<char, CURL_ERROR_SIZE> error{};
  Clock::time_point started, window_began;
  std::uint64_t window_size = 0;    ///< received or sent since window_began
  std::uint64_t skip = 0;           ///< body bytes before those that are wanted
  std::uint64_t left = UINT64_MAX;  ///< bytes that are still wanted
  base::Buffer tail;                ///< the last bytes of a file that came whole
  std::size_t header_size = 0;
  std::uint64_t sent = 0;
  long status = 0;
  bool begun = false;       ///< the first body byte of the final answer was seen
  bool is_proxied = false;  ///< the addresses that libcurl connects to are the proxy's
  bool enough = false, too_much = false, local_address = false, paused = false, stalled = false;
  std::optional<std::uint64_t> length, range_begin;
  std::exception_ptr thrown;
  std::string error_text;     ///< of S3
  std::string bucket_region;  ///< as S3 says it

  static std::size_t on_header(char* data, std::size_t, std::size_t count, void* self) {
    return static_cast<Active*>(self)->header({data, count}) ? count : 0;
  }
  static std::size_t on_body(char* data, std::size_t, std::size_t count, void* self) {
    return static_cast<Active*>(self)->body({reinterpret_cast<const std::byte*>(data), count});
  }
  static std::size_t on_read(char* to, std::size_t, std::size_t count, void* self);
  static int on_seek(void* self, curl_off_t offset, int origin) {
    auto& active = *static_cast<Active*>(self);
    if (origin != SEEK_SET || offset != 0 || active.what.read_body) return CURL_SEEKFUNC_CANTSEEK;
    active.sent = 0;
    return CURL_SEEKFUNC_OK;
  }
  static curl_socket_t on_socket(void* self, curlsocktype, curl_sockaddr* address) {
    auto& active = *static_cast<Active*>(self);
    if (!active.what.may_be_local && !active.is_proxied && is_local(address->addr)) {
      active.local_address = true;
      return CURL_SOCKET_BAD;
    }
    return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  }

  bool header(std::string_view line);
  std::size_t body(base::Bytes bytes);
  bool begin_body();
  [[nodiscard]] bool is_http() const { return what.url.starts_with("http"); }
  bool hand_on(base::Bytes bytes);
};

struct Transfers::State {
  MultiHandle multi;
  std::mutex mutex;  ///< guards posted and stopping
  std::vector<std::function<void()>> posted;
  bool stopping = false;
  std::map<Id, std::unique_ptr<Active>> active;
  std::multimap<Clock::time_point, std::pair<Id, std::function<void()>>> timers;
  std::vector<EasyHandle> idle;
  Id last_id = 0;
  std::atomic<std::uint64_t> requests = 0, received = 0, sent = 0;
  std::uint64_t rate = 0;
  double tokens = 0;
  Clock::time_point filled = Clock::now();
  Clock::time_point next_stall_check = Clock::now();

  /// Whether something may be received now.
  bool take(std::size_t size) {
    if (rate == 0) return true;
    const auto now = Clock::now();
    tokens =
        std::min(static_cast<double>(rate) / 4,
                 tokens + static_cast<double>(rate) * std::chrono::duration<double>(now - filled).count());
    filled = now;
    if (tokens <= 0) return false;
    tokens -= static_cast<double>(size);
    return true;
  }
};

bool Transfers::Active::header(std::string_view line) {
  header_size += line.size();
  if (header_size > kMaxHeader) return false;
  if (line.starts_with("HTTP/")) {  // of a redirect, or after "100 Continue"
    length.reset();
    range_begin.reset();
    end.file_size.reset();
    end.wait.reset();
    end.etag.clear();
    end.modified.clear();
    return true;
  }
  const auto colon = line.find(':');
  if (colon == std::string_view::npos) return true;
  const auto name = lower(line.substr(0, colon));
  auto value = trimmed(line.substr(colon + 1));
  if (name == "content-length") {
    if (const auto number = base::parse_decimal(value)) length = *number;
  } else if (name == "content-range") {  // bytes 0-99/1234, bytes */1234
    if (lower(value.substr(0, 5)) == "bytes") value = trimmed(value.substr(5));  // RFC 9110, 14.1
    const auto slash = value.find('/');
    if (slash == std::string_view::npos) return true;
    if (const auto total = base::parse_decimal(value.substr(slash + 1))) end.file_size = *total;
    const auto dash = value.find('-');
    if (what.range.from_end && dash < slash &&
        value.substr(slash + 1) == "*")  // the last byte is the last of the file
      if (const auto last = base::parse_decimal(value.substr(dash + 1, slash - dash - 1)))
        end.file_size = *last + 1;
    if (const auto from = base::parse_decimal(value.substr(0, value.find('-')))) range_begin = *from;
  } else if (name == "retry-after") {
    constexpr std::int64_t kDay = 86400;
    auto seconds = static_cast<std::int64_t>(base::parse_decimal(value).value_or(kDay));
    if (!base::parse_decimal(value))  // a date
      seconds =
          std::max<std::int64_t>(curl_getdate(std::string(value).c_str(), nullptr) - std::time(nullptr), 0);
    if (seconds < kDay) end.wait = std::chrono::seconds(seconds);
  } else if (long code = 0; name == "location" && !what.may_be_local &&
                            curl_easy_getinfo(easy.get(), CURLINFO_RESPONSE_CODE, &code) == CURLE_OK &&
                            code >= 300 && code < 400) {
    // Where a redirect leads is judged before anybody is asked, who may be a proxy. What names no host cannot
    // be.
    const char* from = nullptr;
    curl_easy_getinfo(easy.get(), CURLINFO_EFFECTIVE_URL, &from);
    const auto to = place_of(from != nullptr ? from : what.url, std::string(value));
    if (to.host.empty() || is_local_host(to.host)) {
      local_address = true;
      return false;
    }
  } else if (name == "etag") {
    end.etag = base::is_utf8(value) ? printable(value) : std::string();
  } else if (name == "x-amz-bucket-region" && what.is_s3) {
    bucket_region = printable(value);
  } else if (name == "last-modified") {
    end.modified = printable(value);
  }
  return true;
}

/// False if this answer is none we can use.
bool Transfers::Active::begin_body() {
  begun = true;
  left = what.range.size;
  if (!is_http()) return true;
  curl_easy_getinfo(easy.get(), CURLINFO_RESPONSE_CODE, &status);
  // A connection that another transfer had opened was not asked about in on_socket().
  if (const char* at = nullptr; !what.may_be_local && !is_proxied &&
                                curl_easy_getinfo(easy.get(), CURLINFO_PRIMARY_IP, &at) == CURLE_OK &&
                                at != nullptr && is_local(std::string(at))) {
    local_address = true;
    return false;
  }
  if (status == 200) {
    if (length) end.file_size = *length;
    if (what.range.is_whole()) return true;
    end.ranges_ignored = true;
    skip = what.range.from_end ? 0 : what.range.offset;
    return true;
  }
  if (status != 206) return false;
  if (!range_begin) return false;
  const auto& range = what.range;
  if (!range.from_end) return *range_begin == range.offset;
  return end.file_size && *range_begin == *end.file_size - std::min(range.size, *end.file_size);
}

std::size_t Transfers::Active::body(base::Bytes bytes) {
  if (!state->take(bytes.size())) {
    paused = true;
    return CURL_WRITEFUNC_PAUSE;
  }
  if (!begun) end.first_byte = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - started);
  state->received += bytes.size();
  window_size += bytes.size();
  end.received += bytes.size();
  if (!begun && !begin_body()) {
    // The text of an error page is nobody's, but for what S3 says; a short one is taken in, so that the
    // connection stays usable.
    begun = false;
    if (what.is_s3 && error_text.size() < kMaxErrorText) error_text += base::as_chars(bytes);
    return end.received > kMaxHeader ? 0 : bytes.size();
  }
  const auto size = bytes.size();
  if (skip > 0) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(skip, bytes.size()));
    skip -= count;
    bytes = bytes.subspan(count);
  }
  if (end.ranges_ignored && what.range.from_end) {
    base::append(tail, bytes);
    const auto keep = static_cast<std::size_t>(std::min<std::uint64_t>(what.range.size, what.max_size));
    if (tail.size() > 2 * keep + size)
      tail.erase(tail.begin(), tail.end() - static_cast<std::ptrdiff_t>(keep));
    return size;
  }
  if (bytes.size() > left) bytes = bytes.subspan(0, static_cast<std::size_t>(left));
  if (!bytes.empty() && !hand_on(bytes)) return 0;
  if (left == 0 && (end.ranges_ignored || bytes.size() < size)) {
    enough = true;
    return 0;
  }
  return size;
}

bool Transfers::Active::hand_on(base::Bytes bytes) {
  if (left != UINT64_MAX) left -= bytes.size();
  if (bytes.size() > what.max_size) {
    too_much = true;
    return false;
  }
  what.max_size -= bytes.size();
  if (!what.on_bytes) return true;
  try {
    enough = !what.on_bytes(bytes);
  } catch (...) {
    thrown = std::current_exception();
    return false;
  }
  return !enough;
}

std::size_t Transfers::Active::on_read(char* to, std::size_t, std::size_t count, void* self) {
  auto& active = *static_cast<Active*>(self);
  if (!active.state->take(count)) {
    active.paused = true;
    return CURL_READFUNC_PAUSE;
  }
  std::size_t size = 0;
  if (active.what.read_body) {
    try {
      size = active.what.read_body({reinterpret_cast<std::byte*>(to), count});
    } catch (...) {
      active.thrown = std::current_exception();
      return CURL_READFUNC_ABORT;
    }
  } else {
    size = std::min<std::size_t>(count, active.what.body.size() - active.sent);
    std::copy_n(active.what.body.begin() + static_cast<std::ptrdiff_t>(active.sent), size,
                reinterpret_cast<std::byte*>(to));
  }
  active.sent += size;
  active.state->sent += size;
  active.window_size += size;
  return size;
}

Transfers::Transfers(const TransferLimits& limits) : limits_(limits), state_(std::make_unique<State>()) {
  init_curl();
  state_->multi.reset(curl_multi_init());
  if (!state_->multi) throw Error(Category::local, "libcurl cannot be started");
  curl_multi_setopt(state_->multi.get(), CURLMOPT_MAXCONNECTS, kConnections);
  curl_multi_setopt(state_->multi.get(), CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
  state_->rate = limits.rate;
  thread_ = std::thread([this] { run(); });
}

base::Category category_of(TransferEnd::Kind kind) {
  using Kind = TransferEnd::Kind;
  switch (kind) {
    case Kind::absent:
      return base::Category::not_found;
    case Kind::authentication:
      return base::Category::authentication;
    case Kind::refused:
      return base::Category::refused;
    case Kind::local:
      return base::Category::local;
    default:
      return base::Category::network;
  }
}

Transfers::~Transfers() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  curl_multi_wakeup(state_->multi.get());
  thread_.join();
  for (const auto& [id, active] : state_->active)
    curl_multi_remove_handle(state_->multi.get(), active->easy.get());
}

void Transfers::post(std::function<void()> work) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->posted.push_back(std::move(work));
  }
  curl_multi_wakeup(state_->multi.get());
}

std::future<TransferEnd> Transfers::begin(Transfer transfer) {
  auto ended = std::make_shared<std::promise<TransferEnd>>();  // shared: with the callback
  transfer.on_end = [ended](const TransferEnd& end) { ended->set_value(end); };
  call([&] { (void)start(std::move(transfer)); });
  return ended->get_future();
}

Transfers::Traffic Transfers::traffic() const {
  return {state_->requests, state_->received, state_->sent};
}

Transfers::Id Transfers::at(Clock::time_point time, std::function<void()> work) {
  const Id id = ++state_->last_id;
  state_->timers.emplace(time, std::pair(id, std::move(work)));
  return id;
}

void Transfers::cancel_timer(Id id) {
  for (auto timer = state_->timers.begin(); timer != state_->timers.end(); ++timer)
    if (timer->second.first == id) {
      state_->timers.erase(timer);
      return;
    }
}

Transfers::Id Transfers::start(Transfer transfer) {
  auto active = std::make_unique<Active>();
  active->id = ++state_->last_id;
  active->state = state_.get();
  active->what = std::move(transfer);
  if (state_->idle.empty()) {
    active->easy.reset(curl_easy_init());
    if (!active->easy) throw Error(Category::local, "libcurl: out of memory");
  } else {
    active->easy = std::move(state_->idle.back());
    state_->idle.pop_back();
    curl_easy_reset(active->easy.get());
  }
  auto& what = active->what;
  auto* easy = active->easy.get();
  const auto set = [&](CURLoption option, auto value) {
    if (const auto code = curl_easy_setopt(easy, option, value); code != CURLE_OK)
      throw Error(Category::local,
                  "libcurl, option " + std::to_string(option) + ": " + curl_easy_strerror(code));
  };
  if (!what.may_be_local) {
    const auto place = place_of({}, what.url);
    active->local_address = is_local_host(place.host);
    const auto proxy = limits_.proxy_for ? limits_.proxy_for(place.scheme, place.host) : std::string();
    active->is_proxied = !proxy.empty();
    set(CURLOPT_PROXY, proxy.c_str());  // empty: none, whatever the environment says
    set(CURLOPT_NOPROXY, "");
  }
  set(CURLOPT_URL, active->local_address ? "" : what.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https,sftp");
  set(CURLOPT_REDIR_PROTOCOLS_STR, what.url.starts_with("https") ? "https" : "http,https");
  set(CURLOPT_FOLLOWLOCATION, what.may_redirect ? 1L : 0L);
  set(CURLOPT_MAXREDIRS, kRedirects);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  if (what.url.starts_with("https")) set(CURLOPT_PIPEWAIT, 1L);  // one connection, if it can carry them all
  if (!limits_.certificates.empty()) set(CURLOPT_CAINFO, limits_.certificates.c_str());
  // A handle that was used for HTTP/2 has its buffer still, and takes no other size.
  (void)curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(limits_.connect.count()));
  set(CURLOPT_ERRORBUFFER, active->error.data());
  set(CURLOPT_HEADERFUNCTION, &Active::on_header);
  set(CURLOPT_HEADERDATA, active.get());
  set(CURLOPT_WRITEFUNCTION, &Active::on_body);
  set(CURLOPT_WRITEDATA, active.get());
  set(CURLOPT_OPENSOCKETFUNCTION, &Active::on_socket);
  set(CURLOPT_OPENSOCKETDATA, active.get());
  set(CURLOPT_PRIVATE, active.get());
  set(CURLOPT_USERAGENT, "vat/1");
  const bool http = active->is_http();
  if (http && what.method != "GET" && what.method != "PUT") set(CURLOPT_CUSTOMREQUEST, what.method.c_str());
  if (what.method == "HEAD") set(CURLOPT_NOBODY, 1L);
  if (what.sends_body) {
    set(CURLOPT_UPLOAD, 1L);
    set(CURLOPT_READFUNCTION, &Active::on_read);
    set(CURLOPT_READDATA, active.get());
    set(CURLOPT_SEEKFUNCTION, &Active::on_seek);
    set(CURLOPT_SEEKDATA, active.get());
    set(CURLOPT_INFILESIZE_LARGE,
        static_cast<curl_off_t>(what.read_body ? what.body_size : what.body.size()));
    // What is signed are the headers given, this one too, though it is not sent.
    if (http && what.signature.empty()) append(active->headers, "Expect:");
  }
  std::string range;
  if (!what.range.is_whole()) {
    if (what.range.from_end)
      range = "-" + std::to_string(what.range.size);
    else
      range = std::to_string(what.range.offset) + "-" +
              (what.range.size == UINT64_MAX ? "" : std::to_string(what.range.offset + what.range.size - 1));
    set(CURLOPT_RANGE, range.c_str());
  }
  if (!what.user.empty()) {
    set(CURLOPT_USERNAME, what.user.c_str());
    set(CURLOPT_PASSWORD, what.password.c_str());
  }
  if (!what.signature.empty()) set(CURLOPT_AWS_SIGV4, what.signature.c_str());
  for (const auto& header : what.headers) append(active->headers, header);
  if (active->headers) set(CURLOPT_HTTPHEADER, active->headers.get());
  if (!what.ssh_known_hosts.empty()) set(CURLOPT_SSH_KNOWNHOSTS, what.ssh_known_hosts.c_str());
  if (!http) {
    set(CURLOPT_SSH_AUTH_TYPES, static_cast<long>(CURLSSH_AUTH_PUBLICKEY | CURLSSH_AUTH_AGENT));
    if (!what.ssh_private_key.empty()) set(CURLOPT_SSH_PRIVATE_KEYFILE, what.ssh_private_key.c_str());
    if (what.list_directory) set(CURLOPT_DIRLISTONLY, 1L);
    if (what.sends_body) set(CURLOPT_FTP_CREATE_MISSING_DIRS, 1L);
    for (const auto& command : what.ssh_after) append(active->ssh_after, command);
    if (active->ssh_after) set(CURLOPT_POSTQUOTE, active->ssh_after.get());
  }
  active->started = active->window_began = Clock::now();
  if (const auto code = curl_multi_add_handle(state_->multi.get(), easy); code != CURLM_OK)
    throw Error(Category::local, std::string("libcurl: ") + curl_multi_strerror(code));
  ++state_->requests;
  const Id id = active->id;
  state_->active.emplace(id, std::move(active));
  return id;
}

void Transfers::cancel(Id id) {
  const auto found = state_->active.find(id);
  if (found == state_->active.end()) return;
  curl_multi_remove_handle(state_->multi.get(), found->second->easy.get());
  state_->active.erase(found);
}

namespace {

std::string status_text(long status, const std::optional<S3Error>& s3) {
  return "HTTP status " + std::to_string(status) + (s3 && !s3->message.empty() ? ": " + s3->message : "");
}

}  // namespace

void Transfers::finish(Active& active, int result) {
  const auto code = static_cast<CURLcode>(result);
  auto& end = active.end;
  auto* easy = active.easy.get();
  end.started = active.started;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &active.status);
  if (const char* place = nullptr;
      curl_easy_getinfo(easy, CURLINFO_EFFECTIVE_URL, &place) == CURLE_OK && place != nullptr)
    end.place = place;
  const bool http = active.is_http();
  if (curl_off_t size = -1; !http && active.what.range.is_whole() &&
                            curl_easy_getinfo(easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &size) == CURLE_OK &&
                            size >= 0)
    end.file_size = static_cast<std::uint64_t>(size);
  const auto status = http ? active.status : 0;
  using Kind = TransferEnd::Kind;
  const auto say = [&](Kind kind, const std::string& message) {
    end.kind = kind;
    end.message = message;
  };
  // A wrong region is told of by a header also where nothing else is (HEAD).
  const bool is_elsewhere =
      (status == 301 || status == 307 || status == 400) && !active.bucket_region.empty();
  const auto s3 = active.what.is_s3 && status >= 300
                      ? read_s3_error(active.error_text, is_elsewhere ? active.bucket_region : std::string())
                      : std::nullopt;
  if (active.thrown) {
    try {
      std::rethrow_exception(active.thrown);
    } catch (const std::exception& error) {
      say(Kind::local, error.what());
    }
  } else if (active.enough) {
    say(Kind::done, {});
  } else if (active.too_much) {
    say(Kind::failed, "sends more than it can have");
  } else if (active.stalled) {
    say(Kind::failed, "nothing came for " + std::to_string(limits_.stall.count() / 1000) + " s");
  } else if (active.local_address) {
    say(Kind::refused, "leads to a loopback or link-local address, which nobody consented to");
  } else if (code == CURLE_TOO_MANY_REDIRECTS) {
    say(Kind::failed, "redirects more than " + std::to_string(kRedirects) + " times");
  } else if (code == CURLE_UNSUPPORTED_PROTOCOL) {
    say(Kind::refused, "redirects to another protocol");
  } else if (s3 && s3->kind) {
    say(*s3->kind, s3->message);
  } else if (status == 403 && active.what.forbidden_is_absent) {
    say(Kind::absent, "no such file, or none for everybody");
  } else if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_LOGIN_DENIED || status == 401 ||
             status == 403) {
    say(Kind::authentication, code == CURLE_PEER_FAILED_VERIFICATION
                                  ? (http ? "its certificate is not trusted" : "its host key is not known")
                                  : (http ? status_text(status, s3) : "login denied"));
  } else if (status == 404 || status == 410 || code == CURLE_REMOTE_FILE_NOT_FOUND) {
    say(Kind::absent, "no such file");
  } else if (status == 416 || (!http && code == CURLE_BAD_DOWNLOAD_RESUME)) {
    say(Kind::range, "the file is shorter");
  } else if (status == 412 || status == 409) {
    say(Kind::exists, status_text(status, s3));
  } else if (status >= 300) {
    say(Kind::failed, status_text(status, s3));
    end.is_busy = status == 429 || status == 502 || status == 503 || status == 504;
  } else if (http && status < 300 && active.end.received > 0 && !active.begun) {
    say(Kind::failed, "answers with another range than the one asked for");
  } else if (code != CURLE_OK) {
    say(code == CURLE_OUT_OF_MEMORY ? Kind::local : Kind::failed,
        printable(active.error[0] != '\0' ? active.error.data() : curl_easy_strerror(code)));
    end.is_cut = end.received == 0 && (code == CURLE_COULDNT_CONNECT || code == CURLE_RECV_ERROR ||
                                       code == CURLE_SEND_ERROR || code == CURLE_GOT_NOTHING);
  } else {
    say(Kind::done, {});
  }
  auto& what = active.what;
  if (end.kind == Kind::done && end.ranges_ignored && what.range.from_end) {
    if (!end.file_size) end.file_size = end.received;
    active.left = what.range.size;
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(what.range.size, active.tail.size()));
    if (!active.hand_on(base::Bytes(active.tail).last(size)) && active.too_much)
      say(Kind::failed, "sends more than it can have");
  }
  const bool is_short = what.method == "GET" && end.kind == Kind::done && !active.enough &&
                        !what.range.from_end && what.range.size != UINT64_MAX && active.left > 0;
  if (is_short) {
    const bool file_ends = end.ranges_ignored || !http ||
                           (end.file_size && *end.file_size < what.range.offset + what.range.size);
    say(file_ends ? Kind::range : Kind::failed, file_ends ? "the file is shorter" : "the answer is cut off");
  }
}

void Transfers::run() {
  auto& state = *state_;
  std::vector<std::function<void()>> work;
  while (true) {
    {
      const std::lock_guard lock(state.mutex);
      if (state.stopping) return;
      work.swap(state.posted);
    }
    for (auto& item : work) item();
    work.clear();
    fire_timers();
    int running = 0;
    curl_multi_perform(state.multi.get(), &running);
    int waiting = 0;
    while (const auto* message = curl_multi_info_read(state.multi.get(), &waiting)) {
      if (message->msg != CURLMSG_DONE) continue;
      Active* found = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &found);
      const auto code = message->data.result;
      const auto place = state.active.find(found->id);
      const auto active = std::move(place->second);
      state.active.erase(place);
      curl_multi_remove_handle(state.multi.get(), active->easy.get());
      finish(*active, code);
      const auto on_end = std::move(active->what.on_end);
      // One that failed may be left with a buffer whose size can no longer be set.
      if (code == CURLE_OK && state.idle.size() < kIdleHandles) state.idle.push_back(std::move(active->easy));
      if (on_end) on_end(active->end);
    }
    check_stalls();
    if (const auto wait = idle_time(); wait.count() > 0)
      curl_multi_poll(state.multi.get(), nullptr, 0, static_cast<int>(wait.count()), nullptr);
  }
}

milliseconds Transfers::idle_time() const {
  milliseconds wait{1000};
  if (!state_->active.empty()) wait = state_->rate > 0 ? kRateStep : kStallCheck;
  if (!state_->timers.empty())
    wait = std::min(wait, std::chrono::ceil<milliseconds>(state_->timers.begin()->first - Clock::now()));
  return std::max(wait, milliseconds{0});
}

void Transfers::fire_timers() {
  auto& timers = state_->timers;
  while (!timers.empty() && timers.begin()->first <= Clock::now()) {
    const auto work = std::move(timers.begin()->second.second);
    timers.erase(timers.begin());
    work();
  }
}

void Transfers::check_stalls() {
  const auto now = Clock::now();
  if (state_->rate > 0)
    for (const auto& [id, active] : state_->active)
      if (active->paused) {
        active->paused = false;
        active->window_began = now;
        curl_easy_pause(active->easy.get(), CURLPAUSE_CONT);
      }
  if (now < state_->next_stall_check) return;
  state_->next_stall_check = now + kStallCheck;
  std::vector<Id> stalled;
  for (const auto& [id, active] : state_->active) {
    if (now - active->window_began < limits_.stall) continue;
    if (active->window_size < limits_.stall_size) stalled.push_back(id);
    active->window_began = now;
    active->window_size = 0;
  }
  for (const auto id : stalled) {
    const auto place = state_->active.find(id);
    if (place == state_->active.end()) continue;  // cancelled by what an earlier one called
    const auto active = std::move(place->second);
    state_->active.erase(place);
    curl_multi_remove_handle(state_->multi.get(), active->easy.get());
    active->stalled = true;
    finish(*active, CURLE_OPERATION_TIMEDOUT);
    if (active->what.on_end) active->what.on_end(active->end);
  }
}

}  // namespace vat::internal
