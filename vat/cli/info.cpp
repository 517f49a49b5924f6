#include <fcntl.h>
#include <sys/stat.h>

#include <set>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

int blob_info(const cli::Call& call, cli::Output& output, vat::Vat& vat) {
  const auto id = base::ObjectId::require(vat.object_format(), call.get("ID"));
  formats::json::Object record{{"blob", id.hex()}};
  if (const auto stored = vat.find(id)) {
    record.emplace_back("size", stored->size);
    record.emplace_back("kind", formats::to_string(stored->kind));
  } else {
    const auto claims = vat.find_recipes(id);
    if (claims.empty()) throw Error(Category::not_found, "blob " + id.hex() + ": not in vat " + vat.path());
    record.emplace_back("size", claims.front().size);
    record.emplace_back("kind", "content");
    record.emplace_back("recipe", claims.front().recipe.hex());
    record.emplace_back("proven", claims.front().proven);
  }
  if (output.json()) {
    output.record("blob", std::move(record));
    return 0;
  }
  for (const auto& [key, value] : record)
    output.line(key + ": " +
                (value.find_string() != nullptr ? *value.find_string() : formats::json::to_line(value)));
  return 0;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto opened = open_vat(call, output);
  if (call.has("ID")) return blob_info(call, output, *opened);
  std::uint64_t blobs = 0, content = 0, packs = 0, pack_bytes = 0, waiting = 0, waiting_bytes = 0;
  std::set<std::string> condemned;  // by what their marks begin with
  if (const auto marks =
          base::find_open_at(AT_FDCWD, opened->path() + "/cache/condemned", O_RDONLY | O_DIRECTORY))
    for (const auto& name : base::list_directory(marks->get()))
      condemned.insert(name.substr(0, name.find('.')));
  opened->list([&](const base::ObjectId&, const vat::StoredBlob& blob) { ++blobs, content += blob.size; },
               [](const base::ObjectId&, const vat::RecipeClaim&) {});
  const auto dir = base::find_open_at(AT_FDCWD, opened->path() + "/primary/pack", O_RDONLY | O_DIRECTORY);
  if (dir)
    for (const auto& name : base::list_directory(dir->get())) {
      struct stat info;
      if (!name.ends_with(".zst") || ::fstatat(dir->get(), name.c_str(), &info, 0) != 0) continue;
      ++packs;
      pack_bytes += static_cast<std::uint64_t>(info.st_size);
      if (!condemned.contains(name.substr(0, name.find('.')))) continue;
      ++waiting;
      waiting_bytes += static_cast<std::uint64_t>(info.st_size);
    }
  formats::json::Object record{{"object-format", base::to_string(opened->object_format())},
                               {"chunker", opened->parameters().id()},
                               {"uuid", opened->uuid()},
                               {"blobs", blobs},
                               {"size", content},
                               {"packs", packs},
                               {"pack-size", pack_bytes},
                               {"waiting-packs", waiting},
                               {"waiting", waiting_bytes}};
  cli::add_path(record, "vat", opened->path());
  if (output.json()) {
    output.record("vat", std::move(record));
    return 0;
  }
  for (const auto& [key, value] : record)
    output.line(key + ": " +
                (value.find_string() != nullptr ? *value.find_string() : formats::json::to_line(value)));
  return 0;
}

}  // namespace

cli::Command info_command() {
  return {"info",
          "Describe the vat, or one id in it",
          "Without ID: object format, chunker profile, how many blobs and packs there are and how many bytes "
          "they hold; how many of the packs only wait to be deleted (repack, gc). "
          "With ID: its size and kind, and the recipe if it is chunked.",
          {{"ID", cli::Argument::Count::optional, "the id of a blob"}},
          {},
          {{"vat --vat deps.vat info", "the vat"}, {"vat --vat deps.vat info 2cf8d83d…", "one blob"}},
          {5, 8, 10, 11},
          run};
}

}  // namespace vat_cli
