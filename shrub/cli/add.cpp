#include <fcntl.h>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/verbs.h"
#include "vat/ingest.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

class OneFile final : public vat::IngestItem {
 public:
  explicit OneFile(std::string path) : path_(std::move(path)) {}
  [[nodiscard]] std::optional<base::UniqueFd> open() override {
    return base::open_at(AT_FDCWD, path_, O_RDONLY | O_NONBLOCK);
  }

 private:
  std::string path_;
};

/// The kind of archive a file name promises.
std::string archive_kind(const std::string& path) {
  for (const auto* kind : {"tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"})
    if (path.ends_with("." + std::string(kind))) return kind;
  if (path.ends_with(".tgz")) return "tar.gz";
  if (path.ends_with(".txz")) return "tar.xz";
  throw Error(Category::usage,
              "--unpack: " + path + " is not named like a tar (.tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst)");
}

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.get("FILE");
  const auto named = find_named(call.get("VREF"));
  const auto unpack = call.has("--unpack") ? archive_kind(path) : std::string();
  const auto vats = open_writable_vats(named.shrub, call, output);
  const auto before = named.shrub.find_vref(named.entry);
  const auto options = add_options(call);
  vat::Adder adder(*vats.writable, options);
  vat::Ingested content;
  bool given = false;
  vat::ingest(vats.writable->object_format(), &adder, profile_for(before, *vats.source, *vats.writable),
              options.threads,
              {[&]() -> std::unique_ptr<vat::IngestItem> {
                 if (std::exchange(given, true)) return nullptr;
                 return std::make_unique<OneFile>(path);
               },
               [&](std::unique_ptr<vat::IngestItem> item) {
                 if (item->failure) base::named(path, [&] { std::rethrow_exception(item->failure); });
                 content = *item->content;
               },
               [&](std::uint64_t done) { output.progress("added", done, 0); }});
  const auto summary = adder.finish();

  formats::Vref vref;
  vref.type = formats::Vref::Type::file;
  vref.object_format = vats.writable->object_format();
  vref.blob = content.blob;
  vref.recipe = content.recipe;
  vref.size = content.size;
  vref.unpack = unpack;
  const bool changed = record_added(named, std::move(vref), before, *vats.writable, options.dry_run);
  if (output.json()) {
    formats::json::Object record{{"blob", content.blob.hex()}};
    if (content.recipe) record.emplace_back("recipe", content.recipe->hex());
    record.insert(record.end(), {{"size", content.size},
                                 {"new", summary.new_size},
                                 {"stored", summary.stored_size},
                                 {"changed", changed}});
    cli::add_path(record, "vref", named.entry + shrub::kVrefSuffix);
    output.record("add", std::move(record));
  } else {
    output.message(named.entry + shrub::kVrefSuffix + (changed ? "" : " unchanged") + ": " +
                   base::human_size(content.size) + ", " + base::human_size(summary.new_size) + " new, " +
                   base::human_size(summary.stored_size) + " stored");
  }
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
