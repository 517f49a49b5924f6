#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/holes.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"
#include "vat/ingest.h"
#include "vat/maps.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

void print(cli::Output& output, const std::string& path, const vat::Ingested& content) {
  if (!output.json()) return output.line(content.blob.hex());
  formats::json::Object record{{"blob", content.blob.hex()}, {"size", content.size}};
  if (content.recipe) record.emplace_back("recipe", content.recipe->hex());
  cli::add_path(record, "path", path);
  output.record("blob", std::move(record));
}

/// Whether `path` is to be read as a stream: standard input, a pipe, a device.
bool is_stream(const std::string& path) {
  if (path == "-") return true;
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) base::throw_errno(path, errno);
  if (S_ISDIR(info.st_mode))
    throw Error(Category::usage, path + ": is a directory", "shrub add-dir adds directories");
  return !S_ISREG(info.st_mode);
}

/// … or something that cannot be asked: whoever looks at it next will say why.
bool is_stream_or_absent(const std::string& path) {
  try {
    return is_stream(path);
  } catch (const Error&) {
    return true;
  }
}

int run(const cli::Call& call, cli::Output& output) {
  const auto files = call.all("FILE");
  const bool keep_going = call.has("--keep-going");
  const bool splits = call.has("--split");
  if (splits && call.get("--split") != "tar")
    throw Error(Category::usage, "--split: '" + call.get("--split") + "' is not tar");
  const auto opened = open_vat(call, output);
  const auto options = add_options(call);
  bool failed = false;
  const auto survive = [&](const Error& error) {
    if (!keep_going) throw Error(error);
    output.warning(error.what());
    failed = true;
  };
  const auto progress = [&](std::uint64_t done) { output.progress("added", done, 0); };

  // Ids are printed once everything is durable: what stdout names is there.
  std::vector<std::pair<std::string, vat::Ingested>> stored;
  vat::AddSummary summary;
  for (std::size_t i = 0; i < files.size();) {
    try {
      if (is_stream(files[i])) {
        if (options.dry_run)
          throw Error(Category::usage,
                      files[i] + ": a stream can be read only once, so there is no dry run of it");
        const auto fd = files[i] == "-" ? base::UniqueFd(::dup(STDIN_FILENO))
                                        : base::open_at(AT_FDCWD, files[i], O_RDONLY);
        stored.emplace_back(files[i], base::named(files[i], [&] {
                              return vat::ingest_stream(*opened, opened->parameters(), options, fd.get(),
                                                        progress);
                            }));
        ++i;
        continue;
      }
    } catch (const Error& error) {
      survive(error);
      ++i;
      continue;
    }
    vat::Adder adder(*opened, options);
    vat::ingest(opened->object_format(), &adder, opened->parameters(), options.threads,
                {[&]() -> std::unique_ptr<vat::IngestItem> {
                   if (i == files.size() || is_stream_or_absent(files[i])) return nullptr;
                   auto item = std::make_unique<vat::FileItem>(
                       files[i++], splits ? vat::IngestItem::Kind::tar : vat::IngestItem::Kind::file);
                   item->max_holes = cli::allowed_holes(call, item->max_holes);
                   return item;
                 },
                 [&](std::unique_ptr<vat::IngestItem> item) {
                   const auto& file = static_cast<const vat::FileItem&>(*item);
                   if (item->content) stored.emplace_back(file.path(), *item->content);
                   if (const auto failure = file.find_failure()) survive(*failure);
                 },
                 progress});
    const auto part = adder.finish();
    summary.new_size += part.new_size;
    summary.stored_size += part.stored_size;
  }
  for (const auto& [path, content] : stored)
    if (content.recipe && !options.dry_run)
      vat::write_map(*opened, {std::nullopt, std::nullopt, content.blob, content.recipe});
  if (!stored.empty() && !options.dry_run) (void)vat::write_pack_list(*opened);
  for (const auto& [path, content] : stored) print(output, path, content);
  output.detail(base::human_size(summary.new_size) + " new, " + base::human_size(summary.stored_size) +
                " stored");
  return failed ? 3 : 0;
}

}  // namespace

cli::Command add_command() {
  return {"add",
          "Store files and print their ids",
          "Stores the content of each FILE and prints its id, the one git hash-object gives. - is standard "
          "input. What is "
          "there already is not stored again. When the ids are printed, the content survives power loss.",
          {{"FILE", cli::Argument::Count::some, "a file, or - for standard input", cli::Completion::file}},
          {{"--level", "N", "zstd level, 1 to 19 (default 3)"},
           cli::holes_option(),
           {"--split",
            "tar",
            "cut tars at their members, so that these are found in what is there already",
            cli::Completion::none,
            false,
            false,
            {"tar"}},
           {"--keep-going", "", "skip files that cannot be read, exit 3"},
           cli::dry_run_option()},
          {{"vat --vat deps.vat add gcc.tar.xz", "store one file"},
           {"tar c . | vat --vat deps.vat add -", "store a stream"}},
          {3, 5, 8, 10, 11},
          run};
}

}  // namespace vat_cli
