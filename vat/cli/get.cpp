#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"
#include "vat/content.h"

namespace vat_cli {
namespace {

/// Where the file goes: through a symlink to what it names. Refuses what cannot be replaced by a file.
std::filesystem::path writable_target(const std::string& name) {
  namespace fs = std::filesystem;
  fs::path path = name;
  for (int hops = 0; hops < 40 && fs::is_symlink(path); ++hops)
    path = path.parent_path() / fs::read_symlink(path);
  if (!path.has_filename() || fs::is_directory(path))
    throw base::Error(base::Category::usage, "--output: '" + name + "' is a directory");
  if (fs::exists(path) && !fs::is_regular_file(path))
    throw base::Error(base::Category::refused, name + ": not a regular file", "vat cat ID > " + name);
  return path;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto opened = open_source(call, output);
  const auto id = base::ObjectId::require(opened->object_format(), call.get("ID"));
  const auto target = writable_target(call.get("--output"));
  const auto parent = target.has_parent_path() ? target.parent_path().string() : std::string(".");
  const auto dir = base::open_directory(AT_FDCWD, parent);
  const auto content = vat::find_content(*opened, id);
  std::optional<base::AtomicFile> file;
  if (!call.has("--dry-run")) {
    base::remove_leftovers(dir.get());
    file.emplace(dir.get());
  }
  std::uint64_t size = 0;
  const auto write = [&](base::Bytes bytes) {
    if (file) file->write(bytes);
    size += bytes.size();
    output.progress("written", size, content.size);
  };
  vat::stream_pinned(*opened, id, content.recipe, write, [&](std::uint64_t hole) {
    size += hole;
    if (file &&
        (::ftruncate(file->fd(), static_cast<off_t>(size)) != 0 || ::lseek(file->fd(), 0, SEEK_END) < 0))
      base::throw_errno("extend", errno);
  });
  if (file) (void)file->publish(dir.get(), target.filename().string(), base::AtomicFile::Existing::replace);
  if (output.json()) {
    formats::json::Object record{{"blob", id.hex()}, {"size", size}};
    cli::add_path(record, "path", call.get("--output"));
    output.record("get", std::move(record));
  }
  return 0;
}

}  // namespace

cli::Command get_command() {
  return {"get",
          "Write the content of an id to a file",
          "Writes the content of ID to a file. The file appears complete and proven, or not at all; holes "
          "stay holes.",
          {{"ID", cli::Argument::Count::one, "the id of a blob"}},
          {{"-o,--output", "FILE", "where to; replaced if there", cli::Completion::file, false, true},
           cli::dry_run_option()},
          {{"vat --vat deps.vat get 2cf8d83d… -o gcc.tar.xz", "fetch one file"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace vat_cli
