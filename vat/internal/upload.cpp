#include "vat/internal/upload.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/url.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using Kind = TransferEnd::Kind;

constexpr unsigned kAttempts = 4;
constexpr std::chrono::seconds kRetryFor{60};  ///< a host that has no time is waited for
constexpr std::chrono::milliseconds kPause{250}, kLongestPause{5000};
constexpr std::uint64_t kPart = std::uint64_t{64} << 20;  ///< bytes of one part of a large object
constexpr std::size_t kMaxAnswer = std::size_t{1} << 20;

/// What stands between <tag> and </tag>; empty if it does not.
std::string element(const std::string& text, const std::string& tag) {
  const auto begin = text.find("<" + tag + ">");
  if (begin == std::string::npos) return {};
  const auto from = begin + tag.size() + 2;
  return text.substr(from, text.find('<', from) - from);
}

std::function<std::size_t(base::MutableBytes)> reader_from(
    const std::function<std::size_t(std::uint64_t, base::MutableBytes)>& read, std::uint64_t offset,
    std::uint64_t size) {
  return [&read, offset, size, done = std::uint64_t{0}](base::MutableBytes buffer) mutable {
    const auto count = read(
        offset + done,
        buffer.subspan(0, static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), size - done))));
    done += count;
    return count;
  };
}

}  // namespace

Upload::Upload(const PeerAddress& address, const TransferLimits& limits)
    : host_(address), transfers_(limits) {
  if (!host_.can_write())
    throw Error(Category::usage, host_.name() + ": a static host cannot be written",
                "copy the vat's files there: rsync, scp, rclone");
}

/// Done, absent or exists; other ends are thrown.
Upload::Answer Upload::run(const std::string& what, const std::function<Transfer()>& make,
                           std::size_t max_answer) {
  const auto begun = Clock::now();
  for (unsigned attempt = 1;; ++attempt) {
    Answer answer;
    auto transfer = make();
    transfer.on_bytes = [&](base::Bytes bytes) {
      if (max_answer == 0) return false;  // only the size of the file is wanted
      if (answer.body.size() + bytes.size() <= kMaxAnswer) answer.body += base::as_chars(bytes);
      return true;
    };
    answer.end = transfers_.begin(std::move(transfer)).get();
    const auto kind = answer.end.kind;
    if (kind == Kind::done || kind == Kind::absent || kind == Kind::exists) return answer;
    const bool is_waited_for = (answer.end.is_busy || answer.end.wait) && Clock::now() - begun < kRetryFor;
    if (kind != Kind::failed || (attempt >= kAttempts && !is_waited_for))
      throw Error(category_of(kind), host_.name() + ": " + what + ": " + answer.end.message);
    if (is_waited_for)
      std::this_thread::sleep_for(answer.end.wait
                                      ? std::min<Clock::duration>(*answer.end.wait, kRetryFor)
                                      : std::min<Clock::duration>(attempt * kPause, kLongestPause));
  }
}

Upload::Answer Upload::require_done(const std::string& what, const std::function<Transfer()>& make) {
  auto answer = run(what, make);
  if (answer.end.kind != Kind::done)
    throw Error(Category::network, host_.name() + ": " + what + ": " + answer.end.message);
  return answer;
}

void Upload::put(const std::string& file, int fd, std::uint64_t size, bool replace) {
  put(
      file, size,
      [fd](std::uint64_t offset, base::MutableBytes buffer) {
        return base::read_some_at(fd, offset, buffer);
      },
      replace);
}

void Upload::put(const std::string& file, base::Bytes bytes, bool replace) {
  put(
      file, bytes.size(),
      [bytes](std::uint64_t offset, base::MutableBytes buffer) {
        const auto part = bytes.subspan(static_cast<std::size_t>(offset));
        const auto count = std::min(part.size(), buffer.size());
        std::copy_n(part.begin(), count, buffer.begin());
        return count;
      },
      replace);
}

void Upload::put(const std::string& file, std::uint64_t size, const ReadAt& read, bool replace) {
  if (host_.kind() == Host::Kind::s3 && size > kPart) return put_parts(file, size, read);
  const auto answer = run(file, [&] {
    auto transfer = host_.put(file, replace);
    transfer.read_body = reader_from(read, 0, size);
    transfer.body_size = size;
    return transfer;
  });
  if (answer.end.kind == Kind::absent || (replace && answer.end.kind == Kind::exists))
    throw Error(Category::network, host_.name() + ": " + file + ": " + answer.end.message);
  if (host_.kind() != Host::Kind::sftp) return;
  // A name that could not be given is no error of SFTP's commands here: what counts is what is there now.
  const auto there = run(
      file, [&] { return host_.get(file, {}); }, 0);
  if (there.end.file_size != size)
    throw Error(Category::network,
                host_.name() + ": " + file + ": could not be put there, or another file is there");
}

/// One object in parts: it appears when all of them are there.
void Upload::put_parts(const std::string& file, std::uint64_t size, const ReadAt& read) {
  const auto begun = run(file, [&] { return host_.post(file, "uploads=", {}); });
  const auto upload = element(begun.body, "UploadId");
  if (upload.empty())
    throw Error(Category::network, host_.name() + ": " + file + ": gives no upload a number");
  const auto id = "uploadId=" + base::percent_encoded(upload);
  try {
    std::string list = "<CompleteMultipartUpload>";
    unsigned number = 0;
    for (std::uint64_t offset = 0; offset < size; offset += kPart) {
      const auto count = std::min(kPart, size - offset);
      ++number;
      const auto part = require_done(file, [&] {
        auto transfer = host_.put_part(file, "partNumber=" + std::to_string(number) + "&" + id);
        transfer.read_body = reader_from(read, offset, count);
        transfer.body_size = count;
        return transfer;
      });
      list += "<Part><PartNumber>" + std::to_string(number) + "</PartNumber><ETag>" + part.end.etag +
              "</ETag></Part>";
    }
    const auto done =
        require_done(file, [&] { return host_.post(file, id, list + "</CompleteMultipartUpload>"); });
    // An error may come with status 200, because the answer begins before the parts are joined.
    if (done.body.find("<Error>") != std::string::npos)
      throw Error(Category::network, host_.name() + ": " + file + ": " + element(done.body, "Code"));
  } catch (const Error&) {
    try {
      (void)run(file, [&] { return host_.remove(file, id); });
    } catch (const Error&) {  // what is left there is the host's to clean up
    }
    throw;
  }
}

}  // namespace vat::internal
