#include "shrub/cli/trace.h"

#include <fcntl.h>

#include <algorithm>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/trace.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kMaxTrace = std::size_t{256} << 20;  ///< bytes of a file
constexpr std::size_t kTogether = 256;                     ///< chunks that are asked for at once
constexpr std::size_t kAhead = 2;                          ///< times that, before the first has come

}  // namespace

std::vector<cli::Option> trace_options() {
  return {
      {"--trace-out", "FILE", "write down which chunks are touched, in which order", cli::Completion::file},
      {"--prefetch", "FILE", "fetch what was written down so, in that order, before it is needed",
       cli::Completion::file},
      {"--no-prefetch", "", "fetch nothing before it is needed, whatever a vref says (shrub add-trace)"}};
}

TraceFile::TraceFile(const std::string& path, base::ObjectFormat format)
    : file_(base::open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600)) {
  base::write_all(file_.get(), base::as_bytes(formats::trace_header(format) + "\n"));
}

void TraceFile::touch(const base::ObjectId& id) {
  const std::lock_guard lock(mutex_);
  if (!seen_.insert(id).second) return;
  try {
    base::write_all(file_.get(), base::as_bytes(id.hex() + "\n"));
  } catch (const Error&) {  // whoever reads must not fail for that
  }
}

std::vector<base::ObjectId> read_trace(const std::string& path, base::ObjectFormat format) {
  const auto text = base::read_file(AT_FDCWD, path, kMaxTrace);
  return base::named(path, [&] { return formats::parse_trace(text, format); });
}

FindTrace find_trace(const std::vector<formats::Vref>& vrefs, vat::BlobSource& source, const cli::Call& call,
                     cli::Output& output) {
  const auto format = source.object_format();
  if (call.has("--no-prefetch")) return {};
  if (const auto path = call.find("--prefetch")) {
    auto ids = read_trace(*path, format);
    return [ids = std::move(ids)] { return ids; };
  }
  std::vector<base::ObjectId> traces;
  for (const auto& vref : vrefs)
    if (vref.trace) traces.push_back(*vref.trace);
  if (traces.empty()) return {};
  return [traces = std::move(traces), &source, &output, format] {
    std::vector<base::ObjectId> all;
    for (const auto& trace : traces) {
      try {
        source.learn({{}, {}, trace, {}}, true);
        const auto bytes = source.read(trace);
        const auto ids = base::named("trace " + trace.short_hex(),
                                     [&] { return formats::parse_trace(base::as_chars(bytes), format); });
        all.insert(all.end(), ids.begin(), ids.end());
      } catch (const Error& error) {
        output.warning(std::string(error.what()) + ": nothing is fetched before it is needed");
      }
    }
    return all;
  };
}

Prefetcher::Prefetcher(vat::BlobSource& source, FindTrace find)
    : thread_([this, &source, find = std::move(find)] {
        std::vector<base::ObjectId> ids;
        try {
          ids = find();
        } catch (const Error&) {  // who needs what it would have named is told
        }
        const auto end_of = [&](std::size_t at) { return std::min(at + kTogether, ids.size()); };
        for (std::size_t at = 0, waited = 0; at < ids.size() && !is_over_; at = end_of(at)) {
          source.prefetch({ids.begin() + static_cast<std::ptrdiff_t>(at),
                           ids.begin() + static_cast<std::ptrdiff_t>(end_of(at))});
          for (; waited + kAhead * kTogether < end_of(at) && !is_over_; ++waited) {
            if ((waited + 1) % kTogether != 0) continue;
            try {
              (void)source.read(ids[waited]);
            } catch (const Error&) {  // who needs it is told
            }
          }
        }
      }) {}

Prefetcher::~Prefetcher() {
  is_over_ = true;
  thread_.join();
}

}  // namespace shrub_cli
