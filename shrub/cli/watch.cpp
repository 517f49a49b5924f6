#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "formats/base/error.h"
#include "shrub/cli/signals.h"
#include "shrub/cli/verbs.h"
#include "wedge/directory_watch.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// Waits until the tree has changed and then been quiet for `settle`, or `longest` has passed since it
/// changed, or `interval` has passed without a change. The signal that ended it, or 0.
int wait_for_change(wedge::DirectoryWatch& watch, milliseconds settle, milliseconds interval) {
  const Signals signals;
  constexpr int kPatience = 10;  // times settle
  const auto begin = Clock::now();
  std::optional<Clock::time_point> first, last;
  while (true) {
    const auto now = Clock::now();
    const auto until = last ? std::min(*last + settle, *first + settle * kPatience) : begin + interval;
    if (now >= until) return 0;
    pollfd fds[] = {{watch.fd(), POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    const auto left = std::chrono::duration_cast<milliseconds>(until - now).count() + 1;
    if (::poll(fds, 2, static_cast<int>(std::min<std::int64_t>(left, 60000))) < 0 && errno != EINTR)
      base::throw_errno("poll", errno);
    if ((fds[1].revents & POLLIN) != 0) return signals.take();
    if ((fds[0].revents & POLLIN) != 0 && watch.take_events()) {
      last = Clock::now();
      if (!first) first = last;
    }
  }
}

bool is_there(const std::string& directory) {
  return ::access(directory.c_str(), F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

int run(const cli::Call& call, cli::Output& output) {
  const milliseconds settle(call.number("--settle", 2, 0, 3600) * 1000 + 50);
  const milliseconds interval(call.number("--interval", 600, 1, 86400) * 1000);
  wedge::DirectoryWatch watch(call.get("DIR"));
  constexpr milliseconds kLookAgain(1000);  // nobody tells when a directory is there again
  bool told = false, was_added = false, is_gone = false;
  while (true) {
    try {
      if (!watch.rescan() && !std::exchange(told, true))
        output.warning("the system allows no more watches: some changes are only seen every " +
                       std::to_string(interval.count() / 1000) + " s (fs.inotify.max_user_watches)");
      (void)add_dir(call, output, true);
      output.finish();
      was_added = true;
      is_gone = false;
    } catch (const Error& error) {
      // What is being written to just now, or a vat in use: the next round may have more luck. A build may
      // begin with removing the directory.
      const bool goes_away =
          error.category() == Category::not_found && was_added && !is_there(call.get("DIR"));
      if (error.category() != Category::local && error.category() != Category::busy && !goes_away) throw;
      if (!goes_away)
        output.warning(error.what());
      else if (!std::exchange(is_gone, true))
        output.warning(call.get("DIR") + ": is gone; it is added when it is there again");
    }
    const int signal = wait_for_change(watch, settle, is_gone ? std::min(interval, kLookAgain) : interval);
    if (signal != 0) return 128 + signal;
  }
}

}  // namespace

cli::Command watch_command() {
  auto options = add_dir_options();
  options.insert(options.end(),
                 {{"--settle", "S", "add when nothing has changed for so many seconds (default 2)"},
                  {"--interval", "S", "look at everything so often, whatever is noticed (default 600)"}});
  return {"watch",
          "Add a directory whenever it changes",
          "Adds DIR as add-dir does, now and whenever it has changed, until it is stopped (SIGINT, SIGTERM). "
          "inotify says "
          "when to look; what changed is found by looking, so nothing is missed for long. The vref changes "
          "only if the "
          "tree does.",
          {{"DIR", cli::Argument::Count::one, "the tree", cli::Completion::directory},
           {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
          options,
          {{"shrub watch ~/notes backup.shrub/notes.vref", "a home folder, kept up to date"}},
          {5, 8, 10, 11},
          run};
}

}  // namespace shrub_cli
