// What a run touched first, and in which order, so that another run has it before it is needed.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <vector>

#include "cli/command.h"
#include "cli/output.h"
#include "formats/base/object_id.h"
#include "formats/base/unique_fd.h"
#include "formats/vref/vref.h"
#include "vat/blob_source.h"

namespace shrub_cli {

/// --trace-out, --prefetch and --no-prefetch.
[[nodiscard]] std::vector<cli::Option> trace_options();

/// A trace of each chunk that is touched, when it first is.
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

/// Throws local; refused if it is no trace of that object format.
[[nodiscard]] std::vector<base::ObjectId> read_trace(const std::string& path, base::ObjectFormat format);

/// Finds what is to be fetched early; may take long, and is called on any thread.
using FindTrace = std::function<std::vector<base::ObjectId>()>;
/// What --prefetch names, which is read here, else what these vrefs do, one after the other; empty: nothing,
/// or --no-prefetch. A trace of a vref that cannot be read costs a warning. `source` and `output` outlive it.
[[nodiscard]] FindTrace find_trace(const std::vector<formats::Vref>& vrefs, vat::BlobSource& source,
                                   const cli::Call& call, cli::Output& output);

/// Fetches what a trace names, in its order, as long as it lives. What is not to be had is passed over.
class Prefetcher {
 public:
  /// `find` is called on a thread of its own; what it throws ends it. `source` outlives it.
  Prefetcher(vat::BlobSource& source, FindTrace find);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

 private:
  std::atomic<bool> is_over_ = false;
  std::thread thread_;
};

}  // namespace shrub_cli
