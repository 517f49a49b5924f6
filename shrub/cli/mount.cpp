#include <fcntl.h>
#include <malloc.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/background.h"
#include "shrub/cli/trace.h"
#include "shrub/cli/verbs.h"
#include "wedge/filler.h"
#include "wedge/fuse/mount.h"
#include "wedge/fuse/mount_point.h"
#include "wedge/fuse/writable_view.h"
#include "wedge/lazy_reader.h"
#include "wedge/mount_tree.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

constexpr std::chrono::milliseconds kTellAgain{500}, kLookAgain{100}, kCountAgain{1000};

/// Sleeps, but not on when it is over.
void rest(const std::stop_token& over, std::chrono::milliseconds time) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any().wait_for(lock, over, time, [] { return false; });
}

std::string mounts_directory() {
  const auto cache = cli::cache_directory();
  return cache.empty() ? std::string() : cache + "/mounts";
}

/// What `shrub mounts` reads: a file of one JSON record, locked as long as the mount lives.
class Report {
 public:
  Report(const std::string& directory, formats::json::Object head) : head_(std::move(head)) {
    if (directory.empty()) return;
    base::make_directories(directory);
    directory_ = base::open_directory(AT_FDCWD, directory);
    name_ = std::to_string(::getpid()) + ".json";
    file_ = base::open_at(directory_.get(), name_, O_RDWR | O_CREAT | O_TRUNC, 0600);
    (void)::flock(file_.get(), LOCK_EX | LOCK_NB);
  }
  ~Report() {
    if (file_.get() >= 0) (void)::unlinkat(directory_.get(), name_.c_str(), 0);
  }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void write(const formats::json::Object& now) {
    if (file_.get() < 0) return;
    auto record = head_;
    record.insert(record.end(), now.begin(), now.end());
    const auto text = formats::json::to_line(record) + "\n";
    if (::pwrite(file_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()))
      (void)::ftruncate(file_.get(), static_cast<off_t>(text.size()));
  }

 private:
  formats::json::Object head_;
  base::UniqueFd directory_, file_;
  std::string name_;
};

/// How much of what is mounted is on this disk. One thread each for count() and fill(); the rest from any.
class Presence {
 public:
  Presence(const std::vector<wedge::MountEntry>& entries, const shrub::Vats& vats)
      : entries_(entries), vats_(vats) {
    for (const auto& entry : entries) size_ += entry.root.size;
    if (vats.peers == nullptr) here_ = size_;
  }

  /// Counts again when something came, and takes a hundredth of the time at most.
  void count(const std::stop_token& over) {
    if (vats_.peers == nullptr) return;
    be_last_in_line();
    const auto is_over = [&] { return over.stop_requested(); };
    auto next = std::chrono::steady_clock::now();
    for (std::optional<std::uint64_t> counted; !is_over(); rest(over, kLookAgain)) {
      const auto begun = std::chrono::steady_clock::now();
      const auto received = vats_.peers->received();
      if (counted == received || begun < next) continue;
      double sum = 0;
      for (const auto& entry : entries_)
        sum += wedge::share_here(*vats_.peers, entry.root.content(), is_over) *
               static_cast<double>(entry.root.size);
      here_ = static_cast<std::uint64_t>(sum);
      is_counted_ = is_counted_ || !is_over();
      counted = received;
      next = begun + kCountAgain + 100 * (std::chrono::steady_clock::now() - begun);
    }
  }

  /// Fetches all of it.
  void fill(const std::stop_token& over, cli::Output& output) {
    be_last_in_line();
    const auto is_over = [&] { return over.stop_requested(); };
    for (const auto& entry : entries_) {
      if (is_over()) return;
      const auto before = filled_.load();
      try {
        wedge::fill(*vats_.source, entry.root.content(), is_over,
                    [&](std::uint64_t done) { filled_ = before + done; });
      } catch (const Error& error) {
        output.warning(entry.path + ": " + error.what());
      }
    }
  }

  [[nodiscard]] formats::json::Object describe(const wedge::MountCounts& counts) const {
    formats::json::Object record{
        {"opened", counts.opens.load()}, {"read", counts.bytes.load()}, {"failures", counts.failures.load()},
        {"filled", filled_.load()},      {"here", here_.load()},        {"size", size_},
        {"counted", vats_.peers == nullptr || is_counted_.load()}};
    if (vats_.peers == nullptr) return record;
    record.emplace_back("received", vats_.peers->received());
    formats::json::Array peers;
    for (const auto& peer : vats_.peers->report())
      if (peer.requests > 0)
        peers.push_back(formats::json::Object{
            {"name", peer.name}, {"requests", peer.requests}, {"received", peer.received}});
    record.emplace_back("peers", std::move(peers));
    return record;
  }

 private:
  /// The calling thread gets what time the others leave.
  static void be_last_in_line() {
    (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), 19);
  }

  const std::vector<wedge::MountEntry>& entries_;
  const shrub::Vats& vats_;
  std::uint64_t size_ = 0;
  std::atomic<std::uint64_t> filled_ = 0;  ///< bytes that fill() has seen to
  std::atomic<std::uint64_t> here_ = 0;    ///< about
  std::atomic<bool> is_counted_ = false;
};

/// When it was added; files and images have no time of their own.
formats::Timestamp time_of(const formats::Vref& vref) {
  const auto* added = formats::json::find(vref.provenance, "added");
  const auto seconds = added != nullptr && added->find_string() != nullptr
                           ? cli::parse_time(*added->find_string())
                           : std::nullopt;
  return {seconds.value_or(0), 0};
}

int run_mount(const cli::Call& call, cli::Output& output) {
  std::optional<Background> background;
  if (!call.has("--foreground")) background.emplace();
  std::optional<Report> report;  // goes when all else has: who does not see it any more may remove the cache
  // Chunks come and go: memory that was given back each time would be cleared each time.
  (void)::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  (void)::mallopt(M_TRIM_THRESHOLD, 128 << 20);
  (void)::mallopt(M_ARENA_MAX, 4);  // threads come and go, too
  const auto named = find_shrub(call.get("SHRUB"), call);
  const auto directory = std::filesystem::absolute(call.get("DIR")).lexically_normal().string();
  struct stat info {};
  // A mount whose process was killed is replaced.
  if (::stat(directory.c_str(), &info) != 0 ? errno != ENOTCONN : !S_ISDIR(info.st_mode))
    throw Error(Category::local, call.get("DIR") + ": no directory to mount at");
  std::vector<wedge::MountEntry> entries;
  std::vector<formats::Vref> vrefs;
  for (const auto& entry : named.shrub.entries(named.below)) {
    const auto& vref = vrefs.emplace_back(named.shrub.read(entry));
    entries.push_back({entry, shrub::entry_root(vref), time_of(vref), vref.entries});
  }
  const auto vats = open_vats(named.shrub, call, output);
  const auto leases = hold_leases(vats);
  const auto early = find_trace(vrefs, *vats.source, call, output);
  wedge::MountTree tree(*vats.source, entries, ::geteuid() == 0);
  std::unique_ptr<TraceFile> trace;
  wedge::LazyReader::Options reading;
  if (call.has("--trace-out")) {
    trace = std::make_unique<TraceFile>(call.get("--trace-out"), vats.source->object_format());
    reading.on_touch = [&](const base::ObjectId& id) { trace->touch(id); };
  }
  wedge::LazyReader reader(*vats.source, reading);
  Presence presence(entries, vats);

  if (const auto there = wedge::find_mount_at(directory);
      !call.has("--rw-overlay") || (there && there->type == "fuse.shrub"))
    wedge::replace_dead_mount(directory);
  std::optional<wedge::WritableView> view;
  if (call.has("--rw-overlay")) view.emplace(call.get("--rw-overlay"), directory, !call.has("--allow-other"));
  if (!call.has("--over")) wedge::require_free_mount_point(directory);
  wedge::MountOptions options;
  options.allow_other = call.has("--allow-other");
  options.name = named.shrub.root() + (named.shrub.commit().empty() ? "" : "@" + named.shrub.commit());
  options.find_file = [&](const base::ObjectId& blob) { return vats.source->find_file(blob); };
  options.on_failure = [&](const std::string& what) { output.warning(what); };
  wedge::Mount mount(tree, reader, view ? view->lower() : directory, options);

  formats::json::Object head{{"pid", static_cast<std::uint64_t>(::getpid())}};
  cli::add_path(head, "mount", directory);
  cli::add_path(head, "shrub", options.name);
  report.emplace(mounts_directory(), std::move(head));
  const auto tell = [&] { report->write(presence.describe(mount.counts())); };
  tell();
  const auto is_ready = [&] {
    if (background)
      background->leave(mounts_directory().empty()
                            ? "/dev/null"
                            : mounts_directory() + "/" + std::to_string(::getpid()) + ".log");
  };
  std::optional<Error> failure;
  {
    // Each ends when this block does, the last one first, also if one that comes after it cannot start.
    std::optional<Prefetcher> prefetcher;
    if (early)
      prefetcher.emplace(*vats.source, [&] {
        auto ids = early();
        for (const auto& entry : entries) vats.source->learn(entry.root.content(), true);
        return ids;
      });
    std::jthread filler;
    if (call.has("--fill"))
      filler = std::jthread([&](const std::stop_token& over) { presence.fill(over, output); });
    const std::jthread counter([&](const std::stop_token& over) { presence.count(over); });
    const std::jthread teller([&](const std::stop_token& over) {
      for (; !over.stop_requested(); rest(over, kTellAgain)) tell();
    });
    // It asks the mount below, which answers from run() on.
    std::jthread viewer;
    if (view)
      viewer = std::jthread([&](const std::stop_token& over) {
        try {
          view->mount();
          is_ready();
          view->wait([&] { return over.stop_requested(); });
        } catch (const Error& error) {
          failure.emplace(error);
        }
        view.reset();
        mount.stop();
      });
    else
      is_ready();
    mount.run();
  }
  if (failure) throw Error(*failure);
  if (background) background->forget_log();
  return 0;
}

/// How much of it is here, for a person.
std::string share_of(const formats::json::Object& mount) {
  const auto number_of = [&](const char* key) {
    const auto* value = formats::json::find(mount, key);
    std::uint64_t number = 0;
    return value != nullptr && value->find_unsigned(number) ? number : 0;
  };
  const auto here = number_of("here"), size = number_of("size");
  const auto* counted = formats::json::find(mount, "counted");
  if (counted != nullptr && counted->find_bool() != nullptr && !*counted->find_bool())
    return " (" + base::human_size(size) + ", how much of it is here is not counted yet)";
  if (here >= size) return " (100% of " + base::human_size(size) + " here)";
  return " (" + std::to_string(here * 100 / size) + "% of " + base::human_size(size) + " here)";
}

int run_mounts(const cli::Call&, cli::Output& output) {
  const auto directory = mounts_directory();
  const auto opened =
      directory.empty() ? std::nullopt : base::find_open_at(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY);
  if (!opened) return 0;
  auto names = base::list_directory(opened->get());
  std::sort(names.begin(), names.end());
  for (const auto& name : names) {
    const auto file = name.ends_with(".json") ? base::find_regular_at(opened->get(), name) : std::nullopt;
    if (!file) continue;
    if (::flock(file->get(), LOCK_SH | LOCK_NB) == 0) {  // its process is gone
      (void)::unlinkat(opened->get(), name.c_str(), 0);
      continue;
    }
    const auto record = formats::json::parse(base::read_file(opened->get(), name, 1 << 20));
    const auto* object = record.find_object();
    if (object == nullptr) continue;
    const auto* mount = formats::json::find(*object, "mount");
    if (output.json())
      output.record("mount", *object);
    else if (mount != nullptr && mount->find_string() != nullptr)
      output.line(*mount->find_string() + share_of(*object));
  }
  return 0;
}

}  // namespace

cli::Command mount_command() {
  auto options = cli::fetch_options();
  for (auto& option : trace_options()) options.push_back(std::move(option));
  options.insert(
      options.begin(),
      {{"--foreground", "", "stay in the foreground, and say there what goes wrong"},
       {"--fill", "", "get the rest in the background"},
       {"--rw-overlay", "KEPT",
        "let it be written to, by overlayfs (needs root): what is written is kept in this directory, "
        "and is there again the next time",
        cli::Completion::directory},
       {"--over", "", "mount also over what is mounted there, or over a directory that is not empty"},
       {"--allow-other", "", "other users may look in, as far as modes let them"},
       revision_option()});
  return {
      "mount",
      "Show a shrub as a read-only file system",
      "Mounts the vrefs at or below SHRUB at DIR, by FUSE, and goes on in the background until it is "
      "unmounted (fusermount3 -u DIR, or umount) or ended. Manifests and then data are fetched as they are "
      "touched, and every byte is proven before it is shown. What cannot be had is an I/O error for whoever "
      "reads it, and in the log beside what `shrub mounts` lists; the next read tries again.",
      {{"SHRUB", cli::Argument::Count::one, "a shrub, or a directory or vref in one",
        cli::Completion::directory},
       {"DIR", cli::Argument::Count::one, "an empty directory", cli::Completion::directory}},
      options,
      {{"shrub mount deps.shrub /mnt", "everything"},
       {"shrub mount --rw-overlay changes deps.shrub /mnt", "to try something out in it"},
       {"shrub mount --fill deps.shrub@v1.2 /mnt", "as a tag has it, and all of it in the end"}},
      {4, 5, 6, 7, 8, 9, 10, 11, 12},
      run_mount};
}

cli::Command mounts_command() {
  return {"mounts",
          "List the mounts of this user",
          "Prints where shrubs are mounted; with --json also what was read, what failed, and what came from "
          "where.",
          {},
          {},
          {{"shrub mounts", "those that are alive"}},
          {9},
          run_mounts};
}

}  // namespace shrub_cli
