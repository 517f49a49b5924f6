// stdout is data, stderr is progress and messages: the only code that prints.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "formats/base/bytes.h"
#include "formats/json/json.h"

namespace cli {

class Call;

/// Where a command writes. Thread-safety: message(), detail() and warning() from any thread, the rest from
/// one.
class Output {
 public:
  explicit Output(const Call& call, std::string_view program);
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  [[nodiscard]] bool json() const noexcept { return json_; }
  /// Raw data. Throws local if stdout refuses it.
  void write(base::Bytes bytes);
  /// A line of data.
  void line(std::string_view text);
  /// A record of --json: `object` with "v":1 and "type" in front (and "dry-run" if it is one), on a line of
  /// its own.
  void record(std::string_view type, formats::json::Object object);
  /// A message for people; not with -q.
  void message(std::string_view text);
  /// A message that sums up the data printed before it, so that a terminal shows it behind them. From the
  /// thread that prints data.
  void summary(std::string_view text);
  /// Detail, only with -v.
  void detail(std::string_view text);
  /// Something that went wrong without stopping the command; also with -q.
  void warning(std::string_view text);
  /// How far along: done bytes or items, total 0 if unknown. Shown as --progress says, at most five times a
  /// second, and only once a second has passed.
  void progress(std::string_view what, std::uint64_t done, std::uint64_t total);
  /// Everything written so far has left. Called at the end of a command.
  void finish();

 private:
  enum class Progress : std::uint8_t { none, tty, json };
  void clear_progress();
  std::string program_;
  bool json_ = false, quiet_ = false, verbose_ = false, dry_run_ = false;
  Progress progress_ = Progress::none;
  std::mutex mutex_;
  std::string buffer_;
  bool progress_shown_ = false;
  std::chrono::steady_clock::time_point started_, last_progress_;
};

/// `text` as a terminal or a log may be shown it: control characters, which may come from a repository, as
/// `\\ooo`, and URLs without user, password and query.
[[nodiscard]] std::string printable(std::string_view text);

/// A path, or a text that may name one, in a JSON record: as `key` if it is UTF-8, else under `key`-base64.
void add_path(formats::json::Object& object, std::string_view key, std::string_view path);

}  // namespace cli
