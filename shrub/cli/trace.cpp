#include "shrub/cli/trace.h"

#include <fcntl.h>

#include <algorithm>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kMaxTrace = std::size_t{256} << 20;  ///< bytes of a file
constexpr std::size_t kTogether = 256;                     ///< chunks that are asked for at once
constexpr std::size_t kAhead = 2;                          ///< times that, before the first has come

std::string header(base::ObjectFormat format) {
  return "trace 1 " + std::string(base::to_string(format));
}

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
  base::write_all(file_.get(), base::as_bytes(header(format) + "\n"));
}

void TraceFile::touch(const base::ObjectId& id) {
  const std::lock_guard lock(mutex_);
  if (!seen_.insert(id).second) return;
  try {
    base::write_all(file_.get(), base::as_bytes(id.hex() + "\n"));
  } catch (const Error&) {  // whoever reads must not fail for that
  }
}

std::vector<base::ObjectId> parse_trace(const std::string& name, std::string_view text,
                                        base::ObjectFormat format) {
  auto rest = text;
  if (base::take_field(rest, '\n') != header(format))
    throw Error(Category::refused, name + ": not a trace of " + std::string(base::to_string(format)));
  std::vector<base::ObjectId> ids;
  while (!rest.empty()) {
    const auto line = base::take_field(rest, '\n');
    const auto id = base::ObjectId::parse(format, line);
    if (!id) throw Error(Category::refused, name + ": bad line " + std::to_string(ids.size() + 2));
    ids.push_back(*id);
  }
  return ids;
}

FindTrace find_trace(const std::vector<formats::Vref>& vrefs, vat::BlobSource& source, const cli::Call& call,
                     cli::Output& output) {
  const auto format = source.object_format();
  if (call.has("--no-prefetch")) return {};
  if (const auto path = call.find("--prefetch")) {
    auto ids = parse_trace(*path, base::read_file(AT_FDCWD, *path, kMaxTrace), format);
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
        const auto ids = parse_trace("trace " + trace.short_hex(), base::as_chars(bytes), format);
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
