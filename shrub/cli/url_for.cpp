#include <set>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/url.h"
#include "shrub/cli/verbs.h"
#include "vat/copy.h"
#include "vat/maps.h"

namespace shrub_cli {
namespace {

/// A group of a pack, as a range of a file.
struct Part {
  std::string pack;
  std::uint64_t offset = 0, size = 0;
};

/// Where the groups of a root lie, in the order of its blobs, neighbours joined.
std::vector<Part> parts_of(const shrub::Vats& vats, const vat::Root& root) {
  std::vector<Part> parts;
  std::set<std::pair<std::string, std::uint64_t>> seen;
  vat::for_each_blob(*vats.source, root, [&](const base::ObjectId& id) {
    std::optional<vat::PackedPlace> place;
    for (const auto& local : vats.local)
      if (!place) place = vat::find_place(*local, id);
    if (!place && vats.peers != nullptr)
      if (const auto places = vats.peers->find_places(id); !places.empty()) place = places.front();
    if (!place || !seen.emplace(place->pack, place->group.offset).second) return;
    if (!parts.empty() && parts.back().pack == place->pack &&
        parts.back().offset + parts.back().size == place->group.offset)
      parts.back().size += place->group.size;
    else
      parts.push_back({place->pack, place->group.offset, place->group.size});
  });
  return parts;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_named(call.get("VREF"), call);
  const auto vref = named.shrub.read(named.entry);
  const auto vats = open_vats(named.shrub, call, output);
  const auto print = [&](const std::string& url, const Part* part) {
    if (output.json()) {
      formats::json::Object record;
      cli::add_path(record, "url", url);
      if (part != nullptr) {
        record.emplace_back("offset", part->offset);
        record.emplace_back("size", part->size);
      }
      return output.record("url", std::move(record));
    }
    output.line(url + (part == nullptr ? ""
                                       : " " + std::to_string(part->offset) + "-" +
                                             std::to_string(part->offset + part->size - 1)));
  };
  for (const auto& [key, value] : vref.provenance)
    if (key == "url" && value.find_string() != nullptr)
      print(base::without_secrets(*value.find_string(), true), nullptr);
  const auto root = shrub::entry_root(vref);
  std::vector<std::string> places;
  for (const auto& local : vats.local) places.push_back("file://" + local->path());
  if (vats.peers != nullptr)
    for (const auto& name : vats.peers->peer_names()) places.push_back(name);
  for (const auto& part : parts_of(vats, {root.manifest, root.layout, root.blob, root.recipe}))
    for (const auto& place : places) print(place + "/primary/pack/" + part.pack + ".zst", &part);
  return 0;
}

}  // namespace

cli::Command url_for_command() {
  auto options = cli::fetch_options();
  options.insert(options.begin(), revision_option());
  return {"url-for",
          "Print where the bytes of a vref can be had",
          "Prints the URL the vref was made from, if it says so, then for each part of a pack that holds "
          "something of it and for "
          "each vat a URL and the range of bytes, both ends included. Each part is groups of a pack, which "
          "`zstd -dc` decodes.",
          {{"VREF", cli::Argument::Count::one, "a vref, in a shrub", cli::Completion::file}},
          options,
          {{"shrub url-for deps.shrub/gcc.vref", "for curl -r and zstd -dc"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
