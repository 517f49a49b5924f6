#include "vat/delta.h"

#include <fcntl.h>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/internal/delta_maker.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/vat_impl.h"
#include "vat/maps.h"

namespace vat {

using base::Category;
using base::Error;
using base::ObjectId;

std::string delta_file(const ObjectId& from, const ObjectId& to) {
  const auto hex = to.hex();
  return "cache/delta/" + hex.substr(0, 2) + "/" + hex.substr(2) + "-" + from.hex() + ".delta";
}

DeltaSummary make_delta(Vat& vat, const Root& from, const Root& to, const DeltaOptions& options) {
  if (from.manifest.has_value() != to.manifest.has_value())
    throw Error(Category::usage, "a delta leads from a tree to a tree, or from a file or image to one");
  if (from.id() == to.id())
    throw Error(Category::usage, "both are the same root: there is nothing to be said");
  const auto file = delta_file(from.id(), to.id());
  const auto slash = file.rfind('/');
  internal::DeltaMaker maker(vat, from, to, options.level, options.progress);
  const auto write = [&](const base::ByteSink& sink) {
    const auto written = maker.write(internal::DeltaMaker::Part::all, {}, sink);
    return DeltaSummary{written.blobs, written.size, written.stored_size, {}};
  };
  DeltaSummary summary;
  if (options.dry_run) {
    summary = write([](base::Bytes) {});
  } else {
    const auto directory = internal::open_public(vat.impl().dir.get(), file.substr(0, slash));
    base::remove_leftovers(directory.get());
    base::AtomicFile written(directory.get());
    summary = write([&](base::Bytes bytes) { written.write(bytes); });
    (void)written.publish(directory.get(), file.substr(slash + 1), base::AtomicFile::Existing::replace);
    rewrite_map(vat, to);
  }
  summary.file = file;
  return summary;
}

}  // namespace vat
