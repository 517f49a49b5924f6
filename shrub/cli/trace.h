// What a run touched first, and in which order, so that another run has it before it is needed.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "cli/command.h"
#include "formats/base/object_id.h"
#include "formats/base/unique_fd.h"
#include "vat/blob_source.h"

namespace shrub_cli {

/// --trace-out and --prefetch.
[[nodiscard]] std::vector<cli::Option> trace_options();

/// A file with the id of each chunk that is touched, when it first is: `trace 1 FORMAT`, then an id a line.
/// Thread-safety: any thread.
class TraceFile {
 public:
  /// Made anew, for this user. Throws local.
  TraceFile(const std::string& path, base::ObjectFormat format);
  void touch(const base::ObjectId& id);

 private:
  std::mutex mutex_;
  std::unordered_set<base::ObjectId> seen_;
  base::UniqueFd file_;
};

/// Throws refused if it is no trace of that object format.
[[nodiscard]] std::vector<base::ObjectId> read_trace(const std::string& path, base::ObjectFormat format);

/// Fetches what a trace names, in its order, as long as it lives. What is not to be had is passed over.
class Prefetcher {
 public:
  /// `prepare` is called first. `source` outlives it.
  Prefetcher(vat::BlobSource& source, std::vector<base::ObjectId> ids, std::function<void()> prepare);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

 private:
  std::atomic<bool> is_over_ = false;
  std::thread thread_;
};

}  // namespace shrub_cli
