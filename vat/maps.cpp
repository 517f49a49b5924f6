#include "vat/maps.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <unordered_set>
#include <vector>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/map/map.h"
#include "formats/text/layout.h"
#include "formats/text/manifest.h"
#include "formats/text/recipe.h"
#include "vat/internal/vat_impl.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::RecipeItem;
using formats::Row;

constexpr const char* kPackList = "packs";
constexpr std::size_t kMaxPackList = std::size_t{64} << 20;
constexpr std::size_t kMaxMapFile = std::size_t{64} << 20;

/// cache/ or a directory below it; nullopt if it cannot be written.
std::optional<base::UniqueFd> open_cache(Vat::Impl& vat, const std::string& below = {}) {
  std::string path = "cache";
  for (std::string_view rest = below;;) {
    if (::mkdirat(vat.dir.get(), path.c_str(), 0777) != 0 && errno != EEXIST) return std::nullopt;
    if (rest.empty()) break;
    path += "/" + std::string(rest.substr(0, rest.find('/')));
    rest.remove_prefix(rest.find('/') == std::string_view::npos ? rest.size() : rest.find('/') + 1);
  }
  if (::faccessat(vat.dir.get(), path.c_str(), W_OK, AT_EACCESS) != 0) return std::nullopt;
  return base::find_open_at(vat.dir.get(), path, O_RDONLY | O_DIRECTORY);
}

/// Collects the places of blobs in a reader's order, each once.
class Collector {
 public:
  Collector(Vat& vat, const ObjectId& root) : vat_(vat), map_(vat.object_format(), root) {}

  void blob(const ObjectId& id) {
    if (!seen_.insert(id).second) return;
    auto& impl = vat_.impl();
    impl.with_index([&](internal::Index& index) {
      const auto places = index.find(id);
      if (places.empty() || places.front().damaged) return;
      const auto name = index.find_pack_name(places.front().pack);
      if (name) map_.add(name->substr(0, 64), places.front().group, places.front().position);
    });
  }
  void recipe(const ObjectId& id) {
    blob(id);
    formats::RecipeReader reader(vat_.read(id), vat_.object_format(), getter());
    reader.on_piece([this](const ObjectId& piece) { blob(piece); });
    for (RecipeItem item; reader.next(item);)
      if (item.type != RecipeItem::Type::hole) blob(item.id);
  }
  void tree(const ObjectId& manifest, const std::optional<ObjectId>& layout) {
    std::vector<ObjectId> files;
    pieces<formats::ManifestReader>(manifest, [&](auto& reader) {
      for (Row row; reader.next(row);)
        if (row.type == Row::Type::file) files.push_back(row.blob);
    });
    if (layout)
      pieces<formats::LayoutReader>(*layout, [&](auto& reader) {
        for (ObjectId blob_id, recipe_id; reader.next(blob_id, recipe_id);) continue;
      });
    for (const auto& file : files) {
      if (vat_.find(file)) {
        blob(file);
      } else if (const auto claims = vat_.find_recipes(file); !claims.empty()) {
        recipe(claims.front().recipe);
      }
    }
  }
  base::Buffer finish() { return map_.finish(); }

 private:
  formats::GetText getter() {
    return [this](const ObjectId& id) { return vat_.read(id); };
  }
  template <typename Reader, typename Work>
  void pieces(const ObjectId& root, Work work) {
    blob(root);
    Reader reader(vat_.read(root), vat_.object_format(), getter());
    reader.on_piece([this](const ObjectId& piece) { blob(piece); });
    work(reader);
  }

  Vat& vat_;
  formats::MapWriter map_;
  std::unordered_set<ObjectId> seen_;
};

std::string pack_list(Vat& vat) {
  std::string text;
  if (const auto packs =
          base::find_open_at(vat.impl().dir.get(), Vat::Impl::kPackDir, O_RDONLY | O_DIRECTORY))
    for (const auto& name : base::list_directory(packs->get()))
      if (Vat::Impl::is_pack_name(name)) text += name.substr(0, 64) + "\n";
  return text;
}

bool write_one(Vat& vat, const MapRoot& root) {
  const auto hex = root.id().hex();
  const auto dir = open_cache(vat.impl(), "map/" + hex.substr(0, 2));
  if (!dir) return false;
  Collector collector(vat, root.id());
  if (root.manifest)
    collector.tree(*root.manifest, root.layout);
  else if (root.recipe)
    collector.recipe(*root.recipe);
  else
    collector.blob(*root.blob);
  const auto map = collector.finish();
  base::remove_leftovers(dir->get());
  base::write_file_atomically(dir->get(), hex.substr(2) + ".zst", map);
  return true;
}

}  // namespace

const ObjectId& MapRoot::id() const {
  if (manifest) return *manifest;
  if (blob) return *blob;
  return recipe.value();
}

void write_pack_list(Vat& vat) {
  const auto dir = open_cache(vat.impl());
  if (!dir) return;
  const auto text = pack_list(vat);
  if (base::find_open_at(dir->get(), kPackList, O_RDONLY) &&
      base::read_file(dir->get(), kPackList, kMaxPackList) == text)
    return;
  base::remove_leftovers(dir->get());
  base::write_file_atomically(dir->get(), kPackList, base::as_bytes(text));
}

void write_map(Vat& vat, const MapRoot& root) {
  const auto hex = root.id().hex();
  if (::faccessat(vat.impl().dir.get(),
                  ("cache/map/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".zst").c_str(), F_OK, 0) != 0)
    (void)write_one(vat, root);
  write_pack_list(vat);
}

void check_cache(Vat& vat, bool repair,
                 const std::function<void(const std::string&, const std::string&, bool)>& on_damage) {
  auto& impl = vat.impl();
  const auto damaged = [&](const std::string& file, const std::string& why) {
    if (repair) base::remove_tree(impl.dir.get(), file);
    on_damage(file, why, repair);
  };
  if (const auto cache = base::find_open_at(impl.dir.get(), "cache", O_RDONLY | O_DIRECTORY)) {
    if (base::find_open_at(cache->get(), kPackList, O_RDONLY) &&
        base::read_file(cache->get(), kPackList, kMaxPackList) != pack_list(vat)) {
      damaged("cache/packs", "is not the list of packs that are there");
      if (repair) write_pack_list(vat);
    }
  }
  const auto maps = base::find_open_at(impl.dir.get(), "cache/map", O_RDONLY | O_DIRECTORY);
  if (!maps) return;
  for (const auto& prefix : base::list_directory(maps->get())) {
    const auto below = base::find_open_at(maps->get(), prefix, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!below) continue;
    for (const auto& name : base::list_directory(below->get())) {
      const auto root = ObjectId::parse(impl.format, prefix + name.substr(0, name.find('.')));
      if (!root || !name.ends_with(".zst")) continue;
      try {
        const auto text = base::read_file(below->get(), name, kMaxMapFile);
        formats::read_map(base::as_bytes(text), impl.format, *root, [](const formats::MapRun&) {});
      } catch (const Error& error) {
        if (error.category() != Category::corrupt && error.category() != Category::refused) throw;
        damaged("cache/map/" + prefix + "/" + name, error.what());
      }
    }
  }
}

RebuildSummary rebuild(Vat& vat) {
  auto& impl = vat.impl();
  impl.discard_index();
  base::remove_tree(impl.dir.get(), "cache");
  write_pack_list(vat);
  RebuildSummary summary;
  summary.packs = impl.with_index([](internal::Index& index) { return index.packs().size(); });
  std::vector<MapRoot> roots;
  vat.list(
      [&](const ObjectId& id, const StoredBlob& blob) {
        ++summary.blobs;
        if (blob.kind == formats::BlobKind::manifest)
          roots.push_back({id, std::nullopt, std::nullopt, std::nullopt});
      },
      [&](const ObjectId& id, const RecipeClaim& claim) {
        roots.push_back({std::nullopt, std::nullopt, id, claim.recipe});
      });
  for (const auto& root : roots) {
    try {
      if (write_one(vat, root)) ++summary.maps;
    } catch (const Error& error) {
      // A damaged root has no map; verify tells about it.
      if (error.category() == Category::local || error.category() == Category::busy) throw;
      impl.note("no map for " + root.id().hex() + ": " + error.what());
    }
  }
  return summary;
}

}  // namespace vat
