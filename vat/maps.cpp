#include "vat/maps.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <vector>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "formats/delta/delta.h"
#include "formats/map/map.h"
#include "formats/table/table_set.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/plan.h"
#include "vat/internal/vat_impl.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;

constexpr const char* kPackList = "packs";
constexpr const char* kPackListPath = "cache/packs";
constexpr std::size_t kMaxPackList = std::size_t{64} << 20;

/// cache/ or a directory below it; nullopt if it cannot be written.
std::optional<base::UniqueFd> open_cache(Vat::Impl& vat, const std::string& below = {}) {
  try {
    auto directory = internal::open_public(vat.dir.get(), below.empty() ? "cache" : "cache/" + below);
    if (::faccessat(directory.get(), ".", W_OK, AT_EACCESS) == 0) return directory;
  } catch (const Error& error) {
    if (error.category() != Category::local && error.category() != Category::refused) throw;
  }
  return std::nullopt;
}

std::string pack_list(Vat& vat, const std::set<std::string>& leaving) {
  std::string text;
  if (const auto packs =
          base::find_open_at(vat.impl().dir.get(), Vat::Impl::kPackDir, O_RDONLY | O_DIRECTORY))
    for (const auto& name : base::list_directory(packs->get()))
      if (Vat::Impl::is_pack_name(name) && !leaving.contains(name)) text += name.substr(0, 64) + "\n";
  return text;
}

/// What is wrong with cache/packs, or nothing. Packs that are not on it yet are none of that, as another
/// process may be about to add them, and neither are those that are not there: a copy may have been taken
/// meanwhile.
std::string pack_list_damage(Vat& vat) {
  if (!base::find_open_at(vat.impl().dir.get(), kPackListPath, O_RDONLY)) return {};
  if (!base::find_regular_at(vat.impl().dir.get(), kPackListPath)) return "is not a regular file";
  const auto text = base::read_file(vat.impl().dir.get(), kPackListPath, kMaxPackList);
  std::string last;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string line(rest.substr(0, rest.find('\n')));
    if (rest.size() == line.size() || !Vat::Impl::is_pack_name(line + ".zst") || line <= last)
      return "is not a list of packs";
    rest.remove_prefix(line.size() + 1);
    last = line;
  }
  return {};
}

/// `on_directory` sees each directory of maps before they are listed.
void for_each_map(
    Vat& vat, const std::function<void(const ObjectId& root, const std::string& file)>& visit,
    const std::function<void(int directory)>& on_directory = [](int) {}) {
  const auto maps = base::find_open_at(vat.impl().dir.get(), "cache/map", O_RDONLY | O_DIRECTORY);
  if (!maps) return;
  for (const auto& prefix : base::list_directory(maps->get())) {
    const auto below = base::find_open_at(maps->get(), prefix, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!below) continue;
    on_directory(below->get());
    for (const auto& name : base::list_directory(below->get())) {
      const auto root = ObjectId::parse(vat.object_format(), prefix + name.substr(0, name.find('.')));
      if (root && name.ends_with(".zst")) visit(*root, "cache/map/" + prefix + "/" + name);
    }
  }
}

/// Whether a table of the index is the file its name says; one that is not listed is nobody's.
bool is_sound_table(const Vat::Impl& vat, const std::string& file, const std::string& name) {
  const auto opened = base::find_regular_at(vat.dir.get(), file);
  if (!opened)  // merged into another meanwhile, or what it held is read again
    return ::faccessat(vat.dir.get(), file.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0;
  return base::to_hex(base::sha256_of_file(opened->get())) == name;
}

/// Names in hex. Throws corrupt or refused for a damaged map.
std::set<std::string> packs_of_map(Vat& vat, const ObjectId& root, const std::string& file) {
  const auto bytes = base::read_file(vat.impl().dir.get(), file, internal::kMaxMapFile);
  std::set<std::string> packs;
  (void)formats::read_map(base::as_bytes(bytes), vat.object_format(), root, [&](const formats::MapRun& run) {
    if (!run.pack.empty()) packs.insert(run.pack);
  });
  return packs;
}

/// Whether the map is sound and all packs it leads to are there.
bool map_holds(Vat& vat, const ObjectId& root, const std::string& file) {
  try {
    const auto packs = packs_of_map(vat, root, file);
    return std::all_of(packs.begin(), packs.end(), [&](const std::string& pack) {
      return ::faccessat(vat.impl().dir.get(), (Vat::Impl::kPackDir + ("/" + pack + ".zst")).c_str(), F_OK,
                         0) == 0;
    });
  } catch (const Error& error) {
    if (error.category() != Category::corrupt && error.category() != Category::refused &&
        error.category() != Category::no_store)
      throw;
    return false;
  }
}

bool is_there(Vat& vat, const Root& root) {
  return ::faccessat(vat.impl().dir.get(), internal::map_file(root.id()).c_str(), F_OK, 0) == 0;
}

/// Those that lie in the vat.
std::vector<formats::MapDelta> deltas_to(Vat& vat, const ObjectId& root) {
  std::vector<formats::MapDelta> deltas;
  const auto hex = root.hex();
  const auto directory =
      base::find_open_at(vat.impl().dir.get(), "cache/delta/" + hex.substr(0, 2), O_RDONLY | O_DIRECTORY);
  if (!directory) return deltas;
  const auto begin = hex.substr(2) + "-";
  for (const auto& name : base::list_directory(directory->get())) {
    if (!name.starts_with(begin) || !name.ends_with(".delta")) continue;
    const auto file = base::find_regular_at(directory->get(), name);
    if (!file) continue;
    base::Buffer bytes(formats::kMaxDeltaHead);
    bytes.resize(base::read_some(file->get(), bytes));
    if (const auto head = formats::find_delta_head(vat.object_format(), bytes); head && head->to == root)
      deltas.push_back({head->from, base::file_size(file->get()), head->missing});
  }
  return deltas;
}

bool write_one(Vat& vat, const Root& root) {
  const auto hex = root.id().hex();
  const auto dir = open_cache(vat.impl(), "map/" + hex.substr(0, 2));
  if (!dir) return false;
  const Reading reading(vat.impl());
  const auto map = make_map(
      vat, root, [&](const ObjectId& id) { return find_place(vat, id); }, deltas_to(vat, root.id()));
  base::remove_leftovers(dir->get());
  base::write_file_atomically(dir->get(), hex.substr(2) + ".zst", map);
  return true;
}

/// Makes those anew that are damaged or lead to packs that are gone, of the same layout or recipe as before.
void refresh_maps(Vat& vat) {
  const auto renew = [&](const ObjectId& id, const std::string& file) {
    if (map_holds(vat, id, file)) return;
    std::optional<ObjectId> detail;
    try {
      const auto bytes = base::read_file(vat.impl().dir.get(), file, internal::kMaxMapFile);
      detail = internal::RootMap(base::as_bytes(bytes), vat.object_format(), id).detail();
    } catch (const Error&) {  // damaged: only its name is known
    }
    Root root;
    const auto stored = vat.find(id);
    if (stored && stored->kind == formats::BlobKind::manifest)
      root = {id, detail, {}, {}};
    else if (stored && stored->kind == formats::BlobKind::recipe)
      root.recipe = id;
    else
      root = {{}, {}, id, detail};
    base::remove_tree(vat.impl().dir.get(), file);
    try {
      (void)write_one(vat, root);
    } catch (const Error& error) {  // it is of something that is gone, too
      if (error.category() == Category::local || error.category() == Category::busy) throw;
    }
  };
  for_each_map(vat, renew, base::remove_leftovers);
}

/// Maps for all roots that have none; counts what is there then, or what there would be.
RebuildSummary write_maps(Vat& vat, bool dry_run = false) {
  RebuildSummary summary;
  std::vector<Root> roots;
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
      if (dry_run || is_there(vat, root) || write_one(vat, root)) ++summary.maps;
    } catch (const Error& error) {
      // A damaged root has no map; verify tells about it.
      if (error.category() == Category::local || error.category() == Category::busy) throw;
      vat.impl().note("no map for " + root.id().hex() + ": " + error.what());
    }
  }
  return summary;
}

}  // namespace

std::optional<PackedPlace> find_place(Vat& vat, const ObjectId& id) {
  return vat.impl().with_index([&](internal::Index& index) -> std::optional<PackedPlace> {
    const auto places = index.find(id);
    if (places.empty() || places.front().damaged) return std::nullopt;
    const auto name = index.find_pack_name(places.front().pack);
    if (!name) return std::nullopt;
    return PackedPlace{name->substr(0, 64), places.front().group, places.front().position};
  });
}

base::Buffer make_map(BlobSource& texts, const Root& root,
                      const std::function<std::optional<PackedPlace>(const ObjectId&)>& find_place,
                      const std::vector<formats::MapDelta>& deltas) {
  formats::MapWriter map(texts.object_format(), root.id(), root.detail());
  for (const auto& delta : deltas) map.add_delta(delta);
  internal::Walk walk;
  walk.read = [&](const ObjectId& id) { return texts.read(id); };
  walk.find_recipe = [&](const ObjectId& content) -> std::optional<ObjectId> {
    if (texts.find(content)) return std::nullopt;
    const auto claims = texts.find_recipes(content);
    return claims.empty() ? std::nullopt : std::optional(claims.front().recipe);
  };
  walk.visit = [&](const internal::Met& met) {
    if (const auto place = find_place(met.id))
      map.add(met.section, place->pack, place->group, place->position);
    else
      map.add_absent(met.section);
  };
  walk_root(texts.object_format(), {root, {}, {}, true}, walk);
  return map.finish();
}

bool write_pack_list(Vat& vat, const std::set<std::string>& leaving) {
  const auto dir = open_cache(vat.impl());
  if (!dir) return false;
  base::remove_leftovers(dir->get());
  // Whoever writes last looks again, so that no pack of another process stays off the list.
  while (true) {
    const auto text = pack_list(vat, leaving);
    if (base::find_regular_at(dir->get(), kPackList) &&
        base::read_file(dir->get(), kPackList, kMaxPackList) == text)
      return true;
    base::write_file_atomically(dir->get(), kPackList, base::as_bytes(text));
  }
}

void write_map(Vat& vat, const Root& root) {
  if (!is_there(vat, root)) (void)write_one(vat, root);
  (void)write_pack_list(vat);
}

void rewrite_map(Vat& vat, const Root& root) {
  (void)write_one(vat, root);
}

void check_cache(Vat& vat, bool repair,
                 const std::function<void(const std::string&, const std::string&, bool)>& on_damage) {
  auto& impl = vat.impl();
  if (const auto why = pack_list_damage(vat); !why.empty()) {
    on_damage("cache/packs", why, repair && write_pack_list(vat));
  }
  const auto damaged = [&](const std::string& file, const std::string& why) {
    if (repair) base::remove_tree(impl.dir.get(), file);
    on_damage(file, why, repair);
  };
  const auto tables = base::find_open_at(impl.dir.get(), "cache/index", O_RDONLY | O_DIRECTORY);
  for (const auto& name : tables ? formats::TableSet::read_list(tables->get()) : std::vector<std::string>())
    if (const auto file = "cache/index/" + name; !is_sound_table(impl, file, name))
      damaged(file, "does not match its name");
  for_each_map(vat, [&](const ObjectId& root, const std::string& file) {
    try {
      (void)packs_of_map(vat, root, file);
    } catch (const Error& error) {
      if (error.category() == Category::no_store) return;  // not for this program
      if (error.category() != Category::corrupt && error.category() != Category::refused) throw;
      damaged(file, error.what());
    }
  });
}

void refresh_cache(Vat& vat) {
  (void)write_pack_list(vat);
  refresh_maps(vat);
}

RebuildSummary rebuild(Vat& vat, bool dry_run) {
  auto& impl = vat.impl();
  if (!dry_run) {
    impl.refresh(true);
    if (!write_pack_list(vat)) throw Error(Category::local, "cache/ of the vat cannot be written");
    refresh_maps(vat);
  }
  auto summary = write_maps(vat, dry_run);
  summary.packs = impl.with_index([](internal::Index& index) { return index.packs().size(); });
  return summary;
}

}  // namespace vat
