#include "shrub/cli/lazy_disks.h"

#include <atomic>

#include "formats/base/error.h"
#include "shrub/checkpoints.h"
#include "wedge/lazy_disk.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

}  // namespace

Error LazyDisk::explain(const Error& error, std::uint64_t at, std::size_t size) const try {
  for (const auto& id : reader->chunks_at(file, at, size)) {
    try {
      (void)vats->source->read(id);
    } catch (const Error& damage) {
      const auto all = shrub::find_checkpoints(named.shrub);
      auto holders = vref.recipe && vref.type == formats::Vref::Type::image
                         ? shrub::holders_of(*vats->source, all, shrub::chain_of(all, *vref.recipe), id)
                         : std::string();
      return Error(damage.category(),
                   std::string(damage.what()) + "; it is of " + (holders.empty() ? named.entry : holders));
    }
  }
  return error;
} catch (const Error&) {  // not even what it is made of is to be had
  return error;
}

wedge::NbdDisk LazyDisk::export_as(const std::string& name,
                                   std::function<void(const Error&)> on_damage) const {
  const auto is_told = std::make_shared<std::atomic<bool>>(!on_damage);  // shared: by both functions
  const auto tell = [disk = *this, is_told, on_damage = std::move(on_damage)](
                        const Error& error, std::uint64_t at, std::size_t size) {
    const auto category = error.category();
    if ((category == Category::corrupt || category == Category::wrong_bytes ||
         category == Category::not_found || category == Category::refused) &&
        !is_told->exchange(true))
      on_damage(disk.explain(error, at, size));
  };
  return {
      name, vref.size,
      [disk = *this, tell](std::uint64_t at, base::MutableBytes to, const std::function<bool()>& is_over) {
        try {
          (void)disk.reader->read(disk.file, at, to, is_over);
        } catch (const Error& error) {
          tell(error, at, to.size());
          throw;
        }
      },
      [disk = *this, tell](std::uint64_t at, const std::function<bool()>& is_over) {
        try {
          const auto run = disk.reader->run_at(disk.file, at, is_over);
          return wedge::NbdDisk::Run{run.end, run.is_hole};
        } catch (const Error& error) {
          tell(error, at, 1);
          throw;
        }
      }};
}

std::unique_ptr<formats::Disk> LazyDisk::open() const {
  return wedge::open_lazy_disk(*reader, file, vref.size);
}

LazyDisk LazyDisks::open(const std::string& path) {
  auto named = find_named(path, call_);
  const auto vref = named.shrub.read(named.entry);
  if (vref.type == formats::Vref::Type::tree) throw Error(Category::usage, path + ": a tree, not a disk");
  if (vref.size > formats::kMaxDiskSize)
    throw Error(Category::refused, path + ": no disk has " + std::to_string(vref.size) + " bytes");
  auto& there = opened(named.shrub);
  base::named(path, [&] { there.vats.source->learn({{}, {}, vref.blob, vref.recipe}, true); });
  auto file = there.reader->open(vref.size,
                                 [made = wedge::LazyReader::Made{vref.blob, vref.recipe}] { return made; });
  there.vrefs.push_back(vref);
  return {std::move(named), vref, &there.vats, there.reader.get(), std::move(file)};
}

const shrub::Vats& LazyDisks::vats_of(const shrub::Shrub& shrub) {
  return opened(shrub).vats;
}

void LazyDisks::prefetch() {
  for (auto& [root, opened] : opened_) {
    auto& source = *opened.vats.source;
    if (auto find = find_trace(opened.vrefs, source, call_, output_))
      opened.prefetcher = std::make_unique<Prefetcher>(source, std::move(find));
  }
}

void LazyDisks::report() {
  for (const auto& [root, opened] : opened_) report_peers(opened.vats, output_);
}

LazyDisks::Opened& LazyDisks::opened(const shrub::Shrub& shrub) {
  const auto known = opened_.find(shrub.root());
  if (known != opened_.end()) return known->second;
  auto vats = open_vats(shrub, call_, output_);
  auto leases = hold_leases(vats);
  wedge::LazyReader::Options options;
  options.caution = 4;  // what is next on a disk is often of another file
  if (call_.has("--trace-out")) {
    if (trace_ == nullptr)
      trace_ = std::make_unique<TraceFile>(call_.get("--trace-out"), shrub.list().object_format);
    options.on_touch = [trace = trace_.get()](const base::ObjectId& id) { trace->touch(id); };
  }
  auto reader = std::make_unique<wedge::LazyReader>(*vats.source, options);
  return opened_
      .emplace(shrub.root(), Opened{std::move(vats), std::move(leases), std::move(reader), {}, nullptr})
      .first->second;
}

}  // namespace shrub_cli
