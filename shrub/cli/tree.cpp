#include <algorithm>
#include <map>
#include <set>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/checkpoints.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

/// The images that are related to one of those that were named: below the same roots.
std::set<std::size_t> find_related(const std::vector<shrub::Checkpoint>& all,
                                   const std::vector<base::ObjectId>& wanted) {
  const auto top_of = [&](const base::ObjectId& recipe) {
    const auto chain = shrub::chain_of(all, recipe);
    return all[chain.back()].parent.value_or(all[chain.back()].recipe);
  };
  std::set<base::ObjectId> tops;
  for (const auto& recipe : wanted) tops.insert(top_of(recipe));
  std::set<std::size_t> related;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (tops.contains(top_of(all[i].recipe))) related.insert(i);
  return related;
}

class Printer {
 public:
  Printer(const std::vector<shrub::Checkpoint>& all, const std::set<std::size_t>& shown,
          vat::BlobSource& source, cli::Output& output)
      : all_(all), shown_(shown), output_(output) {
    for (const auto index : shown_) {
      sets_.emplace(index, shrub::read_chunks(source, all_[index].recipe));
      for (const auto& chunk : sets_.at(index).chunks) ++uses_[chunk.key];
    }
  }

  void run() {
    for (const auto index : shown_)
      if (!is_shown(all_[index].parent)) print(index, 0);
  }

 private:
  bool is_shown(const std::optional<base::ObjectId>& recipe) const {
    return recipe && std::any_of(shown_.begin(), shown_.end(),
                                 [&](std::size_t other) { return all_[other].recipe == *recipe; });
  }

  void print(std::size_t index, std::size_t depth) {
    if (!printed_.insert(index).second) return;
    const auto& [entries, recipe, size, parent] = all_[index];
    const shrub::ChunkSet* above = nullptr;
    for (const auto other : shown_)
      if (parent && all_[other].recipe == *parent) above = &sets_.at(other);
    std::uint64_t unique = 0, fresh = 0;
    for (const auto& chunk : sets_.at(index).chunks) {
      if (uses_.at(chunk.key) == 1) unique += chunk.size;
      if (above == nullptr || !above->has(chunk.key)) fresh += chunk.size;
    }
    if (output_.json()) {
      formats::json::Object record{
          {"recipe", recipe.hex()}, {"size", size}, {"new", fresh}, {"unique", unique}};
      if (parent) record.emplace_back("parent", parent->hex());
      cli::add_path(record, "entry", entries.front());
      output_.record("checkpoint", std::move(record));
    } else {
      std::string names;
      for (const auto& entry : entries) names += (names.empty() ? "" : ", ") + formats::escape(entry);
      output_.line(std::string(2 * depth, ' ') + names + "  " + recipe.short_hex() + "  " +
                   base::human_size(size) + ", " + base::human_size(fresh) + " new, " +
                   base::human_size(unique) + " unique" +
                   (parent && above == nullptr ? ", parent " + parent->short_hex() + " is not here" : ""));
    }
    for (const auto other : shown_)
      if (all_[other].parent == recipe) print(other, depth + 1);
  }

  const std::vector<shrub::Checkpoint>& all_;
  const std::set<std::size_t>& shown_;
  cli::Output& output_;
  std::map<std::size_t, shrub::ChunkSet> sets_;
  std::map<std::uint64_t, std::uint32_t> uses_;  ///< checkpoints that have a chunk
  std::set<std::size_t> printed_;
};

int run(const cli::Call& call, cli::Output& output) {
  std::optional<shrub::Shrub> shrub;
  std::vector<base::ObjectId> wanted;
  for (const auto& path : call.all("VREF")) {
    const auto named = find_named(path, call);
    if (shrub && shrub->root() != named.shrub.root())
      throw Error(Category::usage, path + ": lies in another shrub");
    const auto vref = named.shrub.read(named.entry);
    if (vref.type != formats::Vref::Type::image) throw Error(Category::usage, path + ": not an image");
    shrub = named.shrub;
    wanted.push_back(*vref.recipe);
  }
  const auto vats = open_vats(*shrub, call, output);
  const auto all = shrub::find_checkpoints(*shrub);
  const auto related = find_related(all, wanted);
  Printer(all, related, *vats.source, output).run();
  return 0;
}

}  // namespace

cli::Command tree_command() {
  auto options = cli::fetch_options();
  options.insert(options.begin(), revision_option());
  return {"tree",
          "Show images as a tree of checkpoints",
          "Prints the images that VREF was made from, and all that were made from those, each below its "
          "parent: its id, the size of the disk, how many bytes of chunks its parent has not, and how many "
          "none of the others has.",
          {{"VREF", cli::Argument::Count::some, "an image", cli::Completion::file}},
          options,
          {{"shrub tree images.shrub/debian-1.vref", "where it comes from, and what else does"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
