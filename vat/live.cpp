#include "vat/live.h"

#include <fcntl.h>

#include <algorithm>
#include <ctime>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/pack/pack.h"
#include "formats/text/manifest.h"
#include "vat/copy.h"
#include "vat/internal/condemned.h"
#include "vat/internal/vat_impl.h"
#include "vat/peer_set.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;

constexpr std::string_view kPacks = "primary/pack/";
constexpr std::string_view kMaps = "cache/map/";

template <typename Read>
void refuse_unreadable(const std::string& what, Read&& read) {
  try {
    read();
  } catch (const Error& error) {
    if (error.category() == Category::local || error.category() == Category::busy) throw;
    throw Error(Category::refused, what + ": what it needs is not known: " + error.what());
  }
}

/// The id that a path ends with, its first two digits being a directory.
std::optional<ObjectId> id_of(base::ObjectFormat format, std::string_view below) {
  if (below.size() < 4 || below[2] != '/') return std::nullopt;
  const auto name =
      below.substr(3, below.find('.') == std::string_view::npos ? below.npos : below.find('.') - 3);
  return ObjectId::parse(format, std::string(below.substr(0, 2)) + std::string(name));
}

void list_below(int vat, const std::string& directory, int depth, std::vector<std::string>& files) {
  const auto opened = base::find_open_at(vat, directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!opened) return;
  for (const auto& name : base::list_directory(opened->get())) {
    const auto path = directory + "/" + name;
    if (base::find_regular_at(opened->get(), name))
      files.push_back(path);
    else if (depth > 0)
      list_below(vat, path, depth - 1, files);
  }
}

}  // namespace

namespace {

/// A vat that has lost part of what is needed may have the rest in another form, which nothing names: nothing
/// goes then.
void require(BlobSource& source, const ObjectId& id) {
  auto* peers = dynamic_cast<PeerSet*>(&source);
  // What is with others only is not looked for there.
  if (peers == nullptr && !source.find(id))
    throw Error(Category::not_found, "blob " + id.hex() + ": not found");
}

void add_blobs(BlobSource& source, const Root& root, LiveSet& live) {
  for_each_blob(source, root, [&](const ObjectId& id) {
    if (live.insert(id).second) require(source, id);
  });
}

/// Content of which no recipe is named: every one that is said to describe it, and one that is all there.
void add_claimed(BlobSource& source, const ObjectId& content, LiveSet& live) {
  live.insert(content);
  if (source.find(content)) return;
  std::optional<Error> failure;
  bool any = false;
  for (const auto& claim : source.find_recipes(content)) {
    try {
      Root root;
      root.recipe = claim.recipe;
      add_blobs(source, root, live);
      any = true;
    } catch (const Error& error) {
      failure.emplace(error);
    }
  }
  if (any) return;
  if (failure) throw Error(*failure);
  throw Error(Category::not_found, "content " + content.hex() + ": not found");
}

}  // namespace

void add_live(BlobSource& source, const Root& root, LiveSet& live) {
  refuse_unreadable("root " + root.id().hex(), [&] {
    for (const auto& id : {root.manifest, root.layout, root.blob, root.recipe})
      if (id) live.insert(*id);
    add_blobs(source, root, live);
  });
}

void add_live(BlobSource& source, const ObjectId& id, LiveSet& live) {
  refuse_unreadable("root " + id.hex(), [&] {
    live.insert(id);
    const auto stored = source.find(id);
    if (!stored) return add_claimed(source, id, live);
    if (stored->kind == formats::BlobKind::manifest) {
      // Its own pieces, and what its files are made of, whichever recipe describes them.
      const auto get = [&](const ObjectId& text) {
        live.insert(text);
        return source.read(text);
      };
      formats::ManifestReader reader(source.read(id), source.object_format(), get);
      for (formats::Row row; reader.next(row);)
        if (row.type == formats::Row::Type::file) add_claimed(source, row.blob, live);
      return;
    }
    if (stored->kind == formats::BlobKind::recipe || stored->kind == formats::BlobKind::layout) {
      Root root;
      (stored->kind == formats::BlobKind::recipe ? root.recipe : root.layout) = id;
      add_blobs(source, root, live);
    }
  });
}

std::optional<ObjectId> find_holder(BlobSource& source, const Root& root, const ObjectId& id) {
  for (const auto& own : {root.manifest, root.layout, root.blob, root.recipe})
    if (own == id) return std::nullopt;
  std::vector<ObjectId> recipes;
  if (root.recipe) recipes.push_back(*root.recipe);
  for_each_blob(source, root, [&](const ObjectId& blob) {
    const auto stored = source.find(blob);
    if (stored && stored->kind == formats::BlobKind::recipe) recipes.push_back(blob);
  });
  for (const auto& recipe : recipes) {
    Root one;
    one.recipe = recipe;
    bool has = false;
    for_each_blob(source, one, [&](const ObjectId& blob) { has = has || blob == id; });
    if (has && recipe != id) return recipe;
  }
  return root.layout && !root.manifest ? root.layout : root.id();
}

std::vector<std::string> list_files(Vat& vat) {
  std::vector<std::string> files;
  list_below(vat.impl().dir.get(), "primary", 1, files);
  list_below(vat.impl().dir.get(), "cache/map", 1, files);
  std::sort(files.begin(), files.end());
  return files;
}

bool is_live_file(Vat& vat, const std::string& file, const LiveSet& live) {
  auto& impl = vat.impl();
  const std::string_view name = file;
  if (name.starts_with(kMaps)) {
    const auto id = id_of(impl.format, name.substr(kMaps.size()));
    return !id || live.contains(*id);
  }
  if (name.starts_with(kPacks)) {
    if (!Vat::Impl::is_pack_name(name.substr(kPacks.size()))) return true;
    const auto pack = base::find_regular_at(impl.dir.get(), file);
    if (!pack) return true;  // not of this vat
    bool any = false;
    refuse_unreadable(file, [&] {
      formats::read_trailer(impl.format, base::reader_of(pack->get()), base::file_size(pack->get()),
                            [&](const auto&, const std::vector<formats::PackedBlob>& blobs) {
                              for (const auto& blob : blobs) any = any || live.contains(blob.id);
                            });
    });
    return any;
  }
  if (!name.starts_with("primary/")) return true;
  const auto id = id_of(impl.format, name.substr(std::string_view("primary/").size()));
  return !id || live.contains(*id);
}

std::map<std::string, std::int64_t> condemned_files(Vat& vat) {
  std::map<std::string, std::int64_t> files;
  for (const auto& [pack, mark] : internal::read_marks(vat.impl().dir.get(), std::time(nullptr)))
    files.emplace(std::string(kPacks) + pack, mark.since);
  return files;
}

}  // namespace vat
