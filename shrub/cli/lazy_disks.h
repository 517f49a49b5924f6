// Images and files of vrefs as disks, read as they are touched.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "formats/disk/disk.h"
#include "shrub/cli/trace.h"
#include "shrub/cli/verbs.h"
#include "wedge/lazy_reader.h"
#include "wedge/nbd_server.h"

namespace shrub_cli {

/// One disk of a vref.
struct LazyDisk {
  NamedVref named;
  formats::Vref vref;
  const shrub::Vats* vats = nullptr;
  wedge::LazyReader* reader = nullptr;
  wedge::LazyReader::FilePtr file;

  /// `on_damage`: told, from any thread, of the first chunk that is damaged or not to be had: which, and of
  /// which images it is. May be empty.
  [[nodiscard]] wedge::NbdDisk export_as(const std::string& name,
                                         std::function<void(const base::Error&)> on_damage = {}) const;
  /// What is wrong with the bytes of a part of it, in full.
  [[nodiscard]] base::Error explain(const base::Error& error, std::uint64_t at, std::size_t size) const;
  /// For one thread; what this was made of outlives it.
  [[nodiscard]] std::unique_ptr<formats::Disk> open() const;
};

/// What vrefs need to be read, once for each shrub.
class LazyDisks {
 public:
  /// Both outlive it.
  LazyDisks(const cli::Call& call, cli::Output& output) : call_(call), output_(output) {}
  /// Begins with what --prefetch or the vrefs name, once all disks are open.
  void prefetch();
  LazyDisks(const LazyDisks&) = delete;
  LazyDisks& operator=(const LazyDisks&) = delete;

  /// Finds out where its chunks lie. Throws usage for a tree.
  [[nodiscard]] LazyDisk open(const std::string& path);
  [[nodiscard]] const shrub::Vats& vats_of(const shrub::Shrub& shrub);
  /// With -v, of all peers.
  void report();

 private:
  struct Opened {
    shrub::Vats vats;
    std::vector<vat::Lease> leases;
    std::unique_ptr<wedge::LazyReader> reader;
    std::vector<formats::Vref> vrefs;        ///< of the disks
    std::unique_ptr<Prefetcher> prefetcher;  // last: uses the rest
  };
  Opened& opened(const shrub::Shrub& shrub);

  const cli::Call& call_;
  cli::Output& output_;
  std::unique_ptr<TraceFile> trace_;      ///< of --trace-out
  std::map<std::string, Opened> opened_;  ///< by the root of the shrub
};

}  // namespace shrub_cli
