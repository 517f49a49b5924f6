#include "vat/copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/recipe.h"
#include "vat/content.h"
#include "vat/internal/far_vat.h"
#include "vat/internal/peer_index.h"
#include "vat/internal/plan.h"
#include "vat/internal/vat_impl.h"
#include "vat/maps.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::BlobKind;
using internal::Met;

/// Puts what the roots need and `is_there` does not know into an adder.
class Copier {
 public:
  Copier(BlobSource& from, Adder& adder, std::function<bool(const ObjectId&)> is_there,
         const std::function<void(std::uint64_t)>& progress)
      : from_(from), adder_(adder), is_there_(std::move(is_there)), progress_(progress) {}

  void copy(const Root& root) {
    from_.expect({root, {}, {}, true});
    internal::Walk walk;
    walk.read = [&](const ObjectId& id) { return from_.read(id); };
    walk.visit = [&](const Met& met) { put(met, root); };
    walk.on_recipe = [&](const ObjectId& recipe, const formats::RecipeHeader& header) {
      if (header.blob) adder_.claim(*header.blob, recipe, header.size);
    };
    walk.find_recipe = [&](const ObjectId& content) { return find_content(from_, content).recipe; };
    internal::walk_root(from_.object_format(), {root, {}, {}, true}, walk);
    from_.expect_nothing();
  }

 private:
  void put(const Met& met, const Root& root) {
    met_ += met.size;
    if (progress_) progress_(met_);
    if (is_there_(met.id)) return;
    const bool of_image = !root.manifest && !root.layout && !root.blob;
    const auto grouping = met.kind != BlobKind::data ? Grouping::text
                          : of_image                 ? Grouping::single
                          : met.of_recipe            ? Grouping::chunk
                                                     : Grouping::small_file;
    const auto bytes = from_.read(met.id);
    (void)adder_.put(met.id, met.kind, grouping, bytes);
  }

  BlobSource& from_;
  Adder& adder_;
  std::function<bool(const ObjectId&)> is_there_;
  const std::function<void(std::uint64_t)>& progress_;
  std::uint64_t met_ = 0;
};

void add(CopySummary& to, const AddSummary& added) {
  to.blobs += added.new_blobs;
  to.size += added.new_size;
  to.stored_size += added.stored_size;
  to.packs.insert(to.packs.end(), added.packs.begin(), added.packs.end());
}

void require_format(const BlobSource& from, base::ObjectFormat format) {
  if (from.object_format() != format)
    throw Error(Category::usage, "vats of different object formats cannot be copied between");
}

/// What lies where in a vat on another host.
class FarPlaces {
 public:
  FarPlaces(internal::FarVat& far, base::ObjectFormat format, const std::string& cache_dir)
      : far_(far), index_(format, cache_dir) {}

  [[nodiscard]] std::optional<PackedPlace> find(const ObjectId& id) {
    const auto places = index_.locate(far_.peers(), id);
    if (!packs_)
      packs_ = far_.packs().value_or(std::set<std::string>());  // the index knows packs of other peers too
    for (const auto& place : places)
      if (packs_->contains(place.group.pack))
        return PackedPlace{place.group.pack, place.group.place, place.position};
    return std::nullopt;
  }

 private:
  internal::FarVat& far_;
  internal::PeerIndex index_;
  std::optional<std::set<std::string>> packs_;
};

/// Makes the vat if there is none.
void require_vat(internal::FarVat& far, base::ObjectFormat format, const chunker::Parameters& parameters,
                 bool dry_run) {
  far.require_writable();
  const auto settings = far.settings();
  if (settings && settings->object_format != format)
    throw Error(Category::usage, far.name() + ": its object format is " +
                                     std::string(base::to_string(settings->object_format)));
  if (!settings && !dry_run) far.make(format, parameters);
}

}  // namespace

Root root_of(BlobSource& source, const ObjectId& id) {
  const auto stored = source.find(id);
  Root root;
  if (stored && stored->kind == BlobKind::manifest) {
    root.manifest = id;
  } else if (stored && stored->kind == BlobKind::layout) {
    root.layout = id;
  } else if (stored && stored->kind == BlobKind::recipe) {
    root.recipe = id;
    const auto header = formats::find_recipe_header(source.read(id), source.object_format());
    if (header) root.blob = header->blob;
  } else {
    root.blob = id;
    if (!stored) root.recipe = find_content(source, id).recipe;
  }
  return root;
}

void for_each_blob(BlobSource& source, const Root& root, const std::function<void(const ObjectId&)>& visit) {
  internal::Walk walk;
  walk.read = [&](const ObjectId& id) { return source.read(id); };
  walk.visit = [&](const Met& met) { visit(met.id); };
  walk.find_recipe = [&](const ObjectId& content) { return find_content(source, content).recipe; };
  internal::walk_root(source.object_format(), {root, {}, {}, true}, walk);
}

CopySummary copy_roots(BlobSource& from, const std::vector<Root>& roots, Vat& to,
                       const CopyOptions& options) {
  require_format(from, to.object_format());
  CopySummary summary;
  {
    Adder adder(to, options.add);
    Copier copier(
        from, adder, [&](const ObjectId& id) { return adder.has(id); }, options.progress);
    for (const auto& root : roots) copier.copy(root);
    add(summary, adder.finish());
  }
  if (!options.add.dry_run)
    for (const auto& root : roots) write_map(to, root);
  return summary;
}

CopySummary push_roots(BlobSource& from, const std::vector<Root>& roots,
                       const chunker::Parameters& parameters, const PeerAddress& to, const PeerOptions& peer,
                       const std::string& scratch, const CopyOptions& options) {
  internal::FarVat far(to, peer);
  require_vat(far, from.object_format(), parameters, options.add.dry_run);
  FarPlaces places(far, from.object_format(), peer.cache_dir);
  Vat::create(scratch, from.object_format(), parameters);
  const auto staged = Vat::open(scratch);
  CopySummary summary;
  {
    Adder adder(*staged, options.add);
    Copier copier(
        from, adder, [&](const ObjectId& id) { return places.find(id).has_value(); }, options.progress);
    for (const auto& root : roots) copier.copy(root);
    add(summary, adder.finish());
  }
  if (options.add.dry_run) return summary;
  for (const auto& pack : summary.packs) {
    const auto file = std::string(Vat::Impl::kPackDir) + "/" + pack + ".zst";
    far.put(file, base::open_at(staged->impl().dir.get(), file, O_RDONLY).get());
  }
  for (const auto& root : roots) {
    const auto map = make_map(from, root, [&](const ObjectId& id) -> std::optional<PackedPlace> {
      if (auto place = find_place(*staged, id)) return place;
      return places.find(id);
    });
    far.put(internal::map_file(root.id()), map);
  }
  far.put_pack_list(summary.packs);
  return summary;
}

}  // namespace vat
