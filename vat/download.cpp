#include "vat/download.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <future>
#include <thread>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/url.h"
#include "formats/text/text_object.h"
#include "vat/internal/peers.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using internal::Transfer;
using Kind = internal::TransferEnd::Kind;

constexpr unsigned kAttempts = 5;

}  // namespace

Downloaded download(const std::string& url, int fd, const PeerOptions& options,
                    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  if (std::any_of(url.begin(), url.end(),
                  [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 0x7f; }))
    throw Error(Category::usage,
                formats::escape(base::without_secrets(url)) + ": a URL has no blanks: %20 stands for one");
  if ((!url.starts_with("http://") && !url.starts_with("https://")) ||
      url.find(":///") != std::string::npos || url.find(' ') != std::string::npos)
    throw Error(Category::usage, base::without_secrets(url) + ": not an http or https URL");
  internal::Transfers transfers(internal::limits_of(options));
  Downloaded result;
  std::uint64_t size = 0;
  auto alive_at = internal::Clock::now();
  for (unsigned attempt = 1;; ++attempt) {
    const auto before = size;
    Transfer transfer;
    transfer.url = url;
    transfer.may_be_local = true;  // the user named it
    transfer.range.offset = size;
    std::exception_ptr not_kept;  // no fault of the host's
    transfer.on_bytes = [&](base::Bytes bytes) {
      try {
        base::write_all(fd, bytes);
      } catch (const Error&) {
        not_kept = std::current_exception();
        return false;
      }
      size += bytes.size();
      return true;
    };
    auto future = transfers.begin(std::move(transfer));
    while (future.wait_for(std::chrono::milliseconds(200)) != std::future_status::ready)
      if (progress) progress(transfers.traffic().received, 0);
    const auto end = future.get();
    if (not_kept) std::rethrow_exception(not_kept);
    // What came before is of use only if this is the same file, and the host says so.
    const bool goes_on = before > 0 && size > before;
    if (before == 0) {
      result.etag = end.etag;
      result.modified = end.modified;
    }
    const bool other = goes_on && (result.etag.empty() || end.etag != result.etag);
    result.url = end.place;
    if (end.kind == Kind::done && !other) break;
    if (other || result.etag.empty() || end.kind == Kind::range) {
      if (::ftruncate(fd, 0) != 0 || ::lseek(fd, 0, SEEK_SET) < 0) base::throw_errno("truncate", errno);
      size = 0;
    }
    if (size > before) alive_at = internal::Clock::now();
    const bool is_waited_for =
        (end.is_busy || end.wait) && internal::Clock::now() - alive_at < options.retry_for;
    if ((attempt >= kAttempts && !is_waited_for) ||
        (end.kind != Kind::failed && end.kind != Kind::range && !other))
      throw Error(internal::category_of(end.kind),
                  base::without_secrets(url) + ": " + (other ? "changes while it is fetched" : end.message));
    std::this_thread::sleep_for(end.wait
                                    ? std::min<std::chrono::milliseconds>(*end.wait, options.retry_for)
                                    : std::min<std::chrono::milliseconds>(
                                          std::chrono::milliseconds(200) * attempt, std::chrono::seconds(5)));
  }
  result.size = size;
  result.sha256 = base::sha256_of_file(fd);
  return result;
}

}  // namespace vat
