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
       cli::Completion::file}};
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

std::vector<base::ObjectId> read_trace(const std::string& path, base::ObjectFormat format) {
  const auto text = base::read_file(AT_FDCWD, path, kMaxTrace);
  std::string_view rest = text;
  if (base::take_field(rest, '\n') != header(format))
    throw Error(Category::refused, path + ": not a trace of " + std::string(base::to_string(format)));
  std::vector<base::ObjectId> ids;
  while (!rest.empty()) {
    const auto line = base::take_field(rest, '\n');
    const auto id = base::ObjectId::parse(format, line);
    if (!id) throw Error(Category::refused, path + ": bad line " + std::to_string(ids.size() + 2));
    ids.push_back(*id);
  }
  return ids;
}

Prefetcher::Prefetcher(vat::BlobSource& source, std::vector<base::ObjectId> ids,
                       std::function<void()> prepare)
    : thread_([this, &source, ids = std::move(ids), prepare = std::move(prepare)] {
        try {
          if (prepare) prepare();
        } catch (const Error&) {  // places are looked up one by one then
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
