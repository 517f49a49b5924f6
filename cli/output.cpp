#include "cli/output.h"

#include <unistd.h>

#include <cstdio>
#include <new>

#include "cli/command.h"
#include "formats/base/base64.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/url.h"
#include "formats/base/utf8.h"

namespace cli {
namespace {

using base::Category;
using base::Error;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kBufferSize = std::size_t{64} << 10;

}  // namespace

Output::Output(const Call& call, std::string_view program)
    : program_(program),
      json_(call.has("--json")),
      quiet_(call.has("--quiet")),
      verbose_(call.has("--verbose")),
      dry_run_(call.has("--dry-run")),
      started_(Clock::now()) {
  const auto mode = call.find("--progress").value_or("auto");
  if (mode == "tty")
    progress_ = Progress::tty;
  else if (mode == "json")
    progress_ = Progress::json;
  else if (mode == "auto")
    progress_ = ::isatty(STDERR_FILENO) == 1 && !quiet_ ? Progress::tty : Progress::none;
  else if (mode != "none")
    throw Error(Category::usage, "--progress: '" + mode + "' is not auto, tty, json or none");
}

Output::~Output() {
  const std::lock_guard lock(mutex_);
  clear_progress();
}

void Output::write(base::Bytes bytes) {
  if (buffer_.size() + bytes.size() > kBufferSize) finish();
  if (bytes.size() >= kBufferSize) {
    base::named("stdout", [&] { base::write_all(STDOUT_FILENO, bytes); });
  } else {
    buffer_ += base::as_chars(bytes);
  }
}

void Output::line(std::string_view text) {
  write(base::as_bytes(text));
  write(base::as_bytes("\n"));
}

void Output::record(std::string_view type, formats::json::Object object) {
  object.insert(object.begin(), {{"v", 1}, {"type", type}});
  if (dry_run_) object.insert(object.begin() + 2, {"dry-run", true});
  line(formats::json::to_line(std::move(object)));
}

void Output::finish() {
  const auto text = std::exchange(buffer_, {});
  base::named("stdout", [&] { base::write_all(STDOUT_FILENO, base::as_bytes(text)); });
}

void Output::message(std::string_view text) {
  if (!quiet_) warning(text);
}

void Output::summary(std::string_view text) {
  finish();
  message(text);
}

void Output::detail(std::string_view text) {
  if (verbose_) warning(text);
}

void Output::warning(std::string_view text) {
  const std::lock_guard lock(mutex_);
  clear_progress();
  try {
    (void)std::fprintf(stderr, "%s: %s\n", program_.c_str(), printable(text).c_str());
  } catch (const std::bad_alloc&) {
    (void)std::fprintf(stderr, "%s: out of memory\n", program_.c_str());
  }
}

void Output::progress(std::string_view what, std::uint64_t done, std::uint64_t total) {
  if (progress_ == Progress::none) return;
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  if (now - started_ < std::chrono::seconds(1) || now - last_progress_ < std::chrono::milliseconds(200))
    return;
  last_progress_ = now;
  if (done > total) total = 0;  // it was a guess
  const double seconds = std::chrono::duration<double>(now - started_).count();
  const double rate = static_cast<double>(done) / seconds;
  if (progress_ == Progress::json) {
    const auto text = formats::json::to_line(formats::json::Object{{"v", 1},
                                                                   {"type", "progress"},
                                                                   {"what", what},
                                                                   {"done", done},
                                                                   {"total", total},
                                                                   {"seconds", seconds}});
    (void)std::fprintf(stderr, "%s\n", text.c_str());
    return;
  }
  std::string text = std::string(what) + " " + base::human_size(done);
  if (total > 0) text += " of " + base::human_size(total);
  text += ", " + base::human_size(static_cast<std::uint64_t>(rate)) + "/s";
  if (total > done && rate > 0)
    text += ", " + std::to_string(static_cast<std::uint64_t>(static_cast<double>(total - done) / rate)) +
            " s left";
  (void)std::fprintf(stderr, "\r%s\033[K", text.c_str());
  (void)std::fflush(stderr);
  progress_shown_ = true;
}

void Output::clear_progress() {
  if (!progress_shown_) return;
  (void)std::fputs("\r\033[K", stderr);
  progress_shown_ = false;
}

std::string printable(std::string_view raw) {
  const auto text = base::without_secrets_in(raw);
  std::string shown;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // C1 controls are C2 80 to C2 9F in UTF-8.
    const bool c1 = byte >= 0x80 && byte < 0xa0 && i > 0 && static_cast<unsigned char>(text[i - 1]) == 0xc2;
    if (byte >= 0x20 && byte != 0x7f && !c1) {
      shown += text[i];
      continue;
    }
    char octal[5];
    (void)std::snprintf(octal, sizeof octal, "\\%03o", byte);
    shown += octal;
  }
  return shown;
}

void add_path(formats::json::Object& object, std::string_view key, std::string_view path) {
  if (base::is_utf8(path))
    object.emplace_back(key, path);
  else
    object.emplace_back(std::string(key) + "-base64", base::to_base64(base::as_bytes(path)));
}

}  // namespace cli
