#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/environment.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

base::ObjectId hash_file(base::ObjectFormat format, const std::string& path) {
  const auto fd = base::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);  // a fifo must not hang us
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) base::throw_errno(path, errno);
  if (!S_ISREG(info.st_mode)) throw Error(Category::usage, path + ": not a regular file");
  base::ObjectHasher hasher(format);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  hasher.reset(size);
  base::Buffer buffer(std::size_t{1} << 20);
  std::uint64_t total = 0;
  while (const std::size_t count = base::read_some(fd.get(), buffer)) {
    total += count;
    hasher.update(base::Bytes(buffer).subspan(0, count));
  }
  if (total != size) throw Error(Category::local, path + ": changed while it was read");
  return hasher.finish();
}

int run(const cli::Call& call, cli::Output& output) {
  base::ObjectFormat format = base::ObjectFormat::sha256;
  if (const auto name = call.find("--object-format")) {
    const auto found = base::find_object_format(*name);
    if (!found) throw Error(Category::usage, "--object-format: '" + *name + "' is not sha256 or sha1");
    format = *found;
  } else if (call.has("--vat") || cli::find_variable("VAT_DIR")) {
    format = open_vat(call, output)->object_format();
  }
  for (const auto& path : call.all("FILE")) {
    const auto id = hash_file(format, path);
    if (!output.json()) {
      output.line(id.hex());
      continue;
    }
    formats::json::Object record{{"blob", id.hex()}};
    cli::add_path(record, "path", path);
    output.record("hash", std::move(record));
  }
  return 0;
}

}  // namespace

cli::Command hash_object_command() {
  return {"hash-object",
          "Print the ids of files without storing them",
          "Prints the id of each FILE, as git hash-object --no-filters does. The object format is that of "
          "the vat if one is "
          "named, else sha256.",
          {{"FILE", cli::Argument::Count::some, "files to name", cli::Completion::file}},
          {{"--object-format", "FORMAT", "sha256 or sha1"}},
          {{"vat hash-object --object-format sha1 README.md", "the id that git gives it"}},
          {5, 8},
          run};
}

}  // namespace vat_cli
