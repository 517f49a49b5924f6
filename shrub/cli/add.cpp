#include <fcntl.h>

#include <filesystem>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/verbs.h"
#include "vat/ingest.h"
#include "wedge/unpack.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

/// The kind of archive a file name promises.
std::string archive_kind(const std::string& path) {
  static constexpr std::pair<const char*, const char*> kSuffixes[] = {
      {".tar", "tar"},      {".tar.gz", "tar.gz"}, {".tgz", "tar.gz"}, {".tar.bz2", "tar.bz2"},
      {".tbz2", "tar.bz2"}, {".tar.xz", "tar.xz"}, {".txz", "tar.xz"}, {".tar.zst", "tar.zst"}};
  for (const auto& [suffix, kind] : kSuffixes)
    if (path.ends_with(suffix)) return kind;
  throw Error(Category::usage, "--unpack: " + path + " is not named like a tar",
              "name it .tar, .tar.gz, .tgz, .tar.bz2, .tbz2, .tar.xz, .txz or .tar.zst");
}

/// Refuses an archive that nobody could sync.
void check_archive(const std::string& path, const std::string& kind, base::ObjectFormat format) {
  const auto fd = base::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  base::named(path, [&] {
    wedge::list_archive([&](base::MutableBytes buffer) { return base::read_some(fd.get(), buffer); }, kind,
                        format, [](const formats::Row&) {});
  });
}

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.get("FILE");
  formats::Vref vref;
  if (call.has("--unpack")) vref.unpack = archive_kind(path);
  const auto addition = begin_addition(call, output);
  if (std::filesystem::is_directory(path))
    throw Error(Category::usage, path + ": a directory", "shrub add-dir");
  if (!vref.unpack.empty()) check_archive(path, vref.unpack, addition.vat().object_format());
  vat::Adder adder(addition.vat(), addition.options);
  const auto content =
      vat::ingest_file(path, adder, profile_for(addition.before, *addition.vats.source, addition.vat()),
                       [&](std::uint64_t done) { output.progress("added", done, 0); });
  const auto summary = adder.finish();

  vref.type = formats::Vref::Type::file;
  vref.blob = content.blob;
  vref.recipe = content.recipe;
  vref.size = content.size;
  finish_addition(addition, std::move(vref), summary, output);
  return 0;
}

}  // namespace

cli::Command add_command() {
  return {"add",
          "Store a file and write its vref",
          "Stores FILE in the writable vat and writes VREF, which pins it. With --unpack, sync unpacks it.",
          {{"FILE", cli::Argument::Count::one, "the file", cli::Completion::file},
           {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
          {{"--unpack", "", "FILE is a tar: the entry is the tree in it"},
           {"--level", "N", "zstd level, 1 to 19 (default 3)"},
           cli::dry_run_option()},
          {{"shrub add gcc-13.tar.xz deps.shrub/gcc.vref", "the file itself"},
           {"shrub add --unpack gcc-13.tar.xz deps.shrub/gcc.vref", "what is in it"}},
          {5, 8, 10, 11},
          run};
}

}  // namespace shrub_cli
