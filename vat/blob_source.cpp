#include "vat/blob_source.h"

#include "formats/base/error.h"

namespace vat {
namespace {

using base::Category;
using base::Error;

/// Asks each source in turn; the error of the last that had something to say, corrupt before not_found.
template <typename Ask>
auto first_good(const std::vector<std::shared_ptr<BlobSource>>& sources, Ask ask) {
  std::optional<Error> failure;
  for (const auto& source : sources) {
    try {
      return ask(*source);
    } catch (const Error& error) {
      // Damaged, unreadable or too large here: another may do better. Only what no other source can change
      // ends it.
      const bool absent = error.category() == Category::not_found;
      if (error.category() == Category::internal || error.category() == Category::busy) throw;
      if (!failure || !absent) failure.emplace(error);
    }
  }
  throw Error(*failure);
}

}  // namespace

const base::ObjectId& Root::id() const {
  if (manifest) return *manifest;
  if (blob) return *blob;
  return recipe ? *recipe : layout.value();
}

SourceSet::SourceSet(std::vector<std::shared_ptr<BlobSource>> sources) : sources_(std::move(sources)) {
  if (sources_.empty()) throw Error(Category::usage, "no vat to read from");
  for (const auto& source : sources_)
    if (source->object_format() != sources_.front()->object_format())
      throw Error(Category::usage, "vats of different object formats cannot be used together");
}

base::ObjectFormat SourceSet::object_format() const noexcept {
  return sources_.front()->object_format();
}

std::optional<StoredBlob> SourceSet::find(const base::ObjectId& id) {
  for (const auto& source : sources_)
    if (const auto found = source->find(id)) return found;
  return std::nullopt;
}

base::Buffer SourceSet::read(const base::ObjectId& id) {
  return first_good(sources_, [&](BlobSource& source) { return source.read(id); });
}

void SourceSet::stream(const base::ObjectId& id, const base::ByteSink& sink) {
  bool begun = false;
  std::optional<Error> broken;  // after bytes were handed out there is no starting over
  first_good(sources_, [&](BlobSource& source) {
    try {
      source.stream(id, [&](base::Bytes bytes) {
        begun = true;
        sink(bytes);
      });
    } catch (const Error& error) {
      if (!begun) throw;
      broken.emplace(error);
    }
    return true;
  });
  if (broken) throw Error(*broken);
}

std::vector<RecipeClaim> SourceSet::find_recipes(const base::ObjectId& id) {
  std::vector<RecipeClaim> all;
  for (const auto& source : sources_)
    for (const auto& claim : source->find_recipes(id))
      all.insert(claim.proven ? all.begin() : all.end(), claim);
  return all;
}

void SourceSet::note_proven(const base::ObjectId& content, const base::ObjectId& recipe, std::uint64_t size) {
  for (const auto& source : sources_)
    if (source->find(recipe)) source->note_proven(content, recipe, size);
}

std::optional<base::UniqueFd> SourceSet::find_file(const base::ObjectId& id) {
  for (const auto& source : sources_)
    if (auto file = source->find_file(id)) return file;
  return std::nullopt;
}

}  // namespace vat
