#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "cli/holes.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/url.h"
#include "shrub/cli/verbs.h"
#include "vat/download.h"
#include "vat/ingest.h"
#include "wedge/unpack.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

/// What kind of archive it is. Refuses one that nobody could sync.
std::string check_archive(const std::string& path, base::ObjectFormat format, std::uint64_t allow_holes,
                          cli::Output& output) {
  const auto fd = base::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  return base::named(path, [&] {
    base::Buffer beginning(512);
    beginning.resize(base::read_some_at(fd.get(), 0, beginning));
    auto kind = wedge::archive_kind(beginning);
    const auto acls = wedge::list_archive(
        [&](base::MutableBytes buffer) { return base::read_some(fd.get(), buffer); }, kind, format,
        wedge::max_archive_holes(base::file_size(fd.get()), allow_holes), [](const formats::Row&) {});
    if (acls > 0)
      output.warning(path + ": access control lists of " + base::counted(acls, "member") +
                     " are not read from archives: unpack it, and add-dir keeps them");
    return kind;
  });
}

/// Stores the file at `path` and writes its vref. `provenance`: what is new in it.
void add_file(const Addition& addition, const std::string& path, formats::Vref vref,
              const formats::json::Object& provenance, const cli::Call& call, cli::Output& output) {
  if (call.has("--unpack"))
    vref.unpack = check_archive(path, addition.vat().object_format(), cli::allowed_holes(call, 0), output);
  vat::Adder adder(addition.vat(), addition.options);
  const auto content = vat::ingest_file(
      path, adder, profile_for(addition.before, *addition.vats.source, addition.vat()),
      [&](std::uint64_t done) { output.progress("added", done, 0); },
      cli::allowed_holes(call, vat::kMaxHoles));
  const auto summary = adder.finish();
  vref.type = formats::Vref::Type::file;
  vref.blob = content.blob;
  vref.recipe = content.recipe;
  vref.size = content.size;
  finish_addition(addition, std::move(vref), summary, output, false, provenance);
}

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.get("FILE");
  formats::Vref vref;
  struct stat info;
  vref.executable =
      !call.has("--unpack") && ::stat(path.c_str(), &info) == 0 && (info.st_mode & S_IXUSR) != 0;
  const auto addition = begin_addition(call, output);
  if (std::filesystem::is_directory(path))
    throw Error(Category::usage, path + ": a directory", "shrub add-dir");
  add_file(addition, path, std::move(vref), {}, call, output);
  return 0;
}

int run_url(const cli::Call& call, cli::Output& output) {
  const auto url = call.get("URL");
  formats::Vref vref;
  const auto wanted = call.find("--sha256");
  const auto digest = wanted ? base::from_hex(lower_case(*wanted)) : std::nullopt;
  if (wanted && (!digest || digest->size() != 32))
    throw Error(Category::usage, "--sha256: '" + *wanted + "' is not a SHA-256 in hex");
  if (call.has("--executable") && call.has("--unpack"))
    throw Error(Category::usage, "--executable: what is unpacked has the modes of the archive");
  const auto addition = begin_addition(call, output);
  vref.executable =
      call.has("--executable") || (!call.has("--unpack") && addition.before && addition.before->executable);
  std::optional<cli::Scratch> scratch;
  std::string path;
  const auto got = base::use_scratch(cli::scratch_places(), [&](const base::ScratchPlace& place) {
    scratch.emplace(place);
    path = scratch->path() + "/file";
    const auto fd = base::open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL, 0600);
    return vat::download(
        url, fd.get(), cli::peer_options(call, output),
        [&](std::uint64_t done, std::uint64_t total) { output.progress("fetched", done, total); });
  });
  if (digest && !std::equal(digest->begin(), digest->end(), got.sha256.begin()))
    throw Error(Category::wrong_bytes,
                url + ": its SHA-256 is " + base::to_hex(got.sha256) + ", not the one that is wanted");
  const bool keep_query = call.has("--keep-query");
  const auto shown = base::without_secrets(url, keep_query),
             place = base::without_secrets(got.url, keep_query);
  formats::json::Object provenance{{"url", shown}};
  for (const auto& [key, value] :
       {std::pair("place", place == shown ? std::string() : place), std::pair("etag", got.etag),
        std::pair("modified", got.modified), std::pair("sha256", base::to_hex(got.sha256))})
    if (!value.empty()) provenance.emplace_back(key, value);
  add_file(addition, path, std::move(vref), provenance, call, output);
  return 0;
}

}  // namespace

cli::Command add_command() {
  return {
      "add",
      "Store a file and write its vref",
      "Stores FILE in the writable vat and writes VREF, which pins it. A tar that is not compressed is cut "
      "at "
      "its members, so that those that are there already take no room again; every byte of it comes back. "
      "With --unpack, sync unpacks it. Of FILE's mode, the vref keeps whether its owner may run it; owner "
      "and "
      "times it does not keep.",
      {{"FILE", cli::Argument::Count::one, "the file", cli::Completion::file},
       {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
      {{"--unpack", "",
        "FILE is a tar, or one compressed by gzip, bzip2, xz or zstd, whatever its name: the entry is the "
        "tree in it"},
       {"--level", "N", "zstd level, 1 to 19 (default 3)"},
       cli::holes_option(),
       cli::dry_run_option()},
      {{"shrub add gcc-13.tar.xz deps.shrub/gcc.vref", "the file itself"},
       {"shrub add --unpack gcc-13.tar.xz deps.shrub/gcc.vref", "what is in it"}},
      {5, 8, 10, 11},
      run};
}

cli::Command add_url_command() {
  return {"add-url",
          "Fetch a file, store it and write its vref",
          "Fetches what an http or https URL leads to, stores it in the writable vat and writes VREF, which "
          "pins it. The vref "
          "tells where it came from: URL (without user, password and query), ETag, time, SHA-256. With "
          "--sha256 nothing is stored unless it is "
          "that. With --unpack, "
          "sync unpacks it. The same content again changes nothing.",
          {{"URL", cli::Argument::Count::one, "http or https"},
           {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
          {{"--sha256", "HEX", "what upstream says it is"},
           {"--unpack", "",
            "it is a tar, or one compressed by gzip, bzip2, xz or zstd: the entry is the tree in it"},
           {"--executable", "", "it is a program: the entry may be run"},
           {"--keep-query", "", "the vref keeps the URL's query, but for what looks like a secret"},
           cli::limit_rate_option(),
           cli::retry_for_option(),
           {"--level", "N", "zstd level, 1 to 19 (default 3)"},
           cli::holes_option(),
           cli::dry_run_option()},
          {{"shrub add-url --unpack https://example.org/gcc-13.tar.xz deps.shrub/gcc.vref",
            "what is in a release"}},
          {5, 6, 7, 8, 10, 11, 12},
          run_url};
}

}  // namespace shrub_cli
