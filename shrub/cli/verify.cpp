#include <map>

#include "cli/environment.h"
#include "cli/holes.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/recipe.h"
#include "shrub/checkpoints.h"
#include "shrub/cli/verbs.h"
#include "shrub/signature.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

/// Reads and proves every chunk of an image and of all it was made from, each once.
int verify_to_root(const NamedShrub& named, vat::BlobSource& source, cli::Output& output) {
  const auto all = shrub::find_checkpoints(named.shrub);
  std::uint64_t images = 0, size = 0;
  std::map<base::ObjectId, std::uint64_t> proven;  // with the size of the chunk
  for (const auto& entry : named.shrub.entries(named.below)) {
    const auto vref = named.shrub.read(entry);
    if (vref.type != formats::Vref::Type::image) continue;
    const auto chain = shrub::chain_of(all, *vref.recipe);
    for (const auto index : chain) {
      const auto& node = all[index];
      ++images;
      base::named(node.entries.front(), [&] {
        formats::RecipeReader reader(source.read(node.recipe), source.object_format(),
                                     [&](const base::ObjectId& id) { return source.read(id); });
        if (reader.header().size != node.size)
          throw Error(Category::refused, "its recipe is of another size than the vref says");
        for (formats::RecipeItem item; reader.next(item);) {
          if (item.type == formats::RecipeItem::Type::hole) continue;
          try {
            auto known = proven.find(item.id);
            if (known == proven.end()) {
              known = proven.emplace(item.id, source.read(item.id).size()).first;
              size += known->second;
            }
            if (item.type == formats::RecipeItem::Type::chunk ? item.size != known->second
                                                              : item.offset + item.size > known->second)
              throw Error(Category::refused, "chunk " + item.id.hex() + " is not of the size it lists");
          } catch (const Error& error) {
            throw Error(error.category(), std::string(error.what()) + "; it is of " +
                                              shrub::holders_of(source, all, chain, item.id));
          }
          output.progress("verified", size, 0);
        }
      });
    }
    if (const auto& top = all[chain.back()]; top.parent)
      throw Error(Category::not_found, top.entries.front() + ": was made from " + top.parent->hex() +
                                           ", which is in no vref of this shrub");
  }
  if (images == 0) throw Error(Category::usage, named.below + ": no image");
  if (output.json())
    output.record("verify", {{"entries", images}, {"size", size}, {"differences", 0}});
  else
    output.summary(base::counted(images, "image") + ", " + base::human_size(size) + " proven");
  return 0;
}

/// Before anything is read.
void verify_signatures(const NamedShrub& named, cli::Output& output) {
  const cli::Scratch scratch;
  const shrub::SignerSettings settings{cli::config_directory(), scratch.path()};
  std::uint64_t count = 0;
  for (const auto& entry : named.shrub.entries(named.below)) {
    const auto signed_by = shrub::verify_signature(named.shrub, entry, settings);
    ++count;
    if (output.json()) {
      formats::json::Object record{{"version", signed_by.statement.version}};
      cli::add_path(record, "signer", signed_by.signer);
      cli::add_path(record, "entry", entry);
      output.record("signed", std::move(record));
    } else {
      output.detail(entry + ": version " + std::to_string(signed_by.statement.version) + ", signed by " +
                    formats::escape(signed_by.signer));
    }
  }
  if (!output.json()) output.message(base::counted(count, "entry", "entries") + ", signed");
}

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_shrub(call.get("SHRUB"), call);
  const auto& shrub = named.shrub;
  if (call.has("--signed")) verify_signatures(named, output);
  if (call.has("--signed") && !call.has("WEDGE") && !call.has("--to-root")) return 0;
  const auto vats = open_vats(shrub, call, output);
  if (call.has("--to-root")) {
    if (call.has("WEDGE")) throw Error(Category::usage, "--to-root: reads no wedge");
    return verify_to_root(named, *vats.source, output);
  }
  if (!call.has("WEDGE")) throw Error(Category::usage, "no WEDGE");
  tell_oddities(shrub, named.below, output);
  wedge::CompareOptions options;
  options.threads = jobs(call);
  options.read_content = !call.has("--quick");
  options.allow_holes = cli::allowed_holes(call, 0);
  options.scratch = cli::scratch_places(call.get("WEDGE"));
  const auto cache = open_stat_cache(shrub.list().object_format);
  options.cache = cache.get();  // learns; nothing is taken from it
  options.spot_check = {100, 0};
  options.fidelity = fidelity(call, output);
  options.progress = [&](std::uint64_t done) { output.progress("verified", done, 0); };
  std::uint64_t differences = 0, count = 0, kept = 0;
  options.on_kept = [&](std::uint64_t paths) { kept += paths; };
  for (const auto& [entry, root] : shrub::entry_roots(shrub, shrub.entries(named.below))) {
    ++count;
    differences += wedge::verify_entry(*vats.source, call.get("WEDGE"), entry, root, options,
                                       [&, &name = entry](const wedge::Difference& difference) {
                                         print_difference(output, name, difference);
                                       });
  }
  if (output.json())
    output.record("verify", {{"entries", count}, {"differences", differences}, {"kept-otherwise", kept}});
  else
    output.summary(base::counted(count, "entry", "entries") + ", " +
                   base::counted(differences, "difference") +
                   (kept > 0 ? ", " + base::counted(kept, "path") + " as this file system keeps them" : ""));
  return differences == 0 ? 0 : 1;
}

}  // namespace

cli::Command verify_command() {
  auto options = fidelity_options();
  options.push_back(cli::holes_option());
  options.push_back({"--quick", "", "compare sizes and times instead of reading content"});
  options.push_back({"--to-root", "",
                     "instead of a wedge, read every chunk of the images, and of the images they were made "
                     "from, down to those made from none"});
  options.push_back({"--signed", "",
                     "first, or without WEDGE only: each vref has a signature (shrub sign) by one of the "
                     "allowed_signers in ~/.config/vat, of no lower version than was seen before"});
  options.push_back(revision_option());
  for (auto& option : cli::fetch_options()) options.push_back(std::move(option));
  return {"verify",
          "Compare a wedge with a shrub",
          "Reads every file of the entries and prints each path that differs from what the vrefs say, with "
          "how: missing, extra, "
          "type, content, metadata.",
          {{"SHRUB", cli::Argument::Count::one, "a shrub, or a directory or vref in one",
            cli::Completion::directory},
           {"WEDGE", cli::Argument::Count::optional, "where the entries are", cli::Completion::directory}},
          options,
          {{"shrub verify deps.shrub deps", "everything, every byte"},
           {"shrub verify --signed deps.shrub", "who vouches for it"},
           {"shrub verify --to-root images.shrub/debian-1.vref", "a checkpoint and all it stands on"}},
          {1, 4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
