#include "vat/mirror.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/vat_json/vat_settings.h"
#include "vat/internal/far_vat.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/vat_impl.h"
#include "vat/maps.h"

namespace vat {
namespace {

using base::Category;
using base::Error;

constexpr std::uint64_t kPart = std::uint64_t{16} << 20;  ///< bytes that are asked for at a time
constexpr std::size_t kMaxSettings = std::size_t{64} << 10;

chunker::Parameters chunker_of(const formats::VatSettings& settings) {
  const auto parameters = chunker::find_parameters(settings.chunker);
  if (!parameters) throw Error(Category::no_store, "unknown chunker profile '" + settings.chunker + "'");
  return *parameters;
}

/// Files of a vat, by their names below it.
class Side {
 public:
  virtual ~Side() = default;
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;
  [[nodiscard]] virtual std::string name() const = 0;
  /// nullopt: there is no vat.
  virtual std::optional<formats::VatSettings> settings() = 0;
  /// nullopt: it cannot be told which packs there are.
  virtual std::optional<std::set<std::string>> packs() = 0;
  /// None if there is no such directory, or the side cannot tell.
  virtual std::vector<std::string> list(const std::string& directory) = 0;
  /// A file to read from; nullopt if it is gone.
  virtual std::optional<base::UniqueFd> open(const std::string& file) = 0;
  virtual void make(const formats::VatSettings& settings) = 0;
  virtual void put(const std::string& file, int fd) = 0;
  /// `packs`: those that are known to be there.
  virtual void finish(const std::set<std::string>& packs) = 0;

 protected:
  Side() = default;
};

class NearSide final : public Side {
 public:
  NearSide(std::string path, const PeerOptions& options) : path_(std::move(path)), options_(options) {
    if (auto there = base::find_open_at(AT_FDCWD, path_, O_RDONLY | O_DIRECTORY)) dir_ = std::move(*there);
  }
  [[nodiscard]] std::string name() const override { return path_; }
  std::optional<formats::VatSettings> settings() override {
    if (!dir_ || !base::find_open_at(dir_.get(), "vat.json", O_RDONLY)) return std::nullopt;
    return base::named(path_ + "/vat.json", [&] {
      return formats::parse_vat_settings(base::read_file(dir_.get(), "vat.json", kMaxSettings));
    });
  }
  std::optional<std::set<std::string>> packs() override {
    std::set<std::string> names;
    for (const auto& name : list(Vat::Impl::kPackDir))
      if (Vat::Impl::is_pack_name(name)) names.insert(name.substr(0, 64));
    return names;
  }
  std::vector<std::string> list(const std::string& directory) override {
    const auto opened =
        dir_ ? base::find_open_at(dir_.get(), directory, O_RDONLY | O_DIRECTORY) : std::nullopt;
    return opened ? base::list_directory(opened->get()) : std::vector<std::string>();
  }
  std::optional<base::UniqueFd> open(const std::string& file) override {
    return base::find_regular_at(dir_.get(), file);
  }
  void make(const formats::VatSettings& settings) override {
    Vat::create(path_, settings.object_format, chunker_of(settings));
    dir_ = base::open_directory(AT_FDCWD, path_);
  }
  void put(const std::string& file, int fd) override {
    const auto slash = file.rfind('/');
    const auto directory = internal::open_public(dir_.get(), file.substr(0, slash));
    const auto tmp = internal::open_own(dir_.get(), internal::kTmp);
    base::AtomicFile copy(tmp.get(), 0444);
    base::Buffer buffer(std::size_t{1} << 20);
    std::uint64_t at = 0;
    while (const auto count = base::read_some_at(fd, at, buffer)) {
      copy.write(base::Bytes(buffer).subspan(0, count));
      at += count;
    }
    (void)copy.publish(directory.get(), file.substr(slash + 1), base::AtomicFile::Existing::keep);
  }
  void finish(const std::set<std::string>& /*packs*/) override {
    base::remove_leftovers(internal::open_own(dir_.get(), internal::kTmp).get());
    const auto opened = Vat::open(path_, {options_.cache_dir, options_.on_note});
    (void)write_pack_list(*opened);
  }

 private:
  std::string path_;
  const PeerOptions& options_;
  base::UniqueFd dir_;
};

class FarSide final : public Side {
 public:
  FarSide(const PeerAddress& address, const PeerOptions& options,
          const std::vector<base::ScratchPlace>& scratch)
      : far_(address, options), scratch_(scratch) {}

  [[nodiscard]] std::string name() const override { return far_.name(); }
  std::optional<formats::VatSettings> settings() override { return far_.settings(); }
  std::optional<std::set<std::string>> packs() override { return far_.packs(); }
  std::vector<std::string> list(const std::string& directory) override {
    return far_.peers().list(0, directory).value_or(std::vector<std::string>());
  }
  std::optional<base::UniqueFd> open(const std::string& file) override {
    return base::use_scratch(scratch_, [&](const base::ScratchPlace& place) { return copy_in(place, file); });
  }
  std::optional<base::UniqueFd> copy_in(const base::ScratchPlace& place, const std::string& file) {
    auto copy = base::open_nameless(place.path);
    for (std::uint64_t at = 0, size = 1; at < size;) {
      const auto part = far_.peers().read_part(0, file, {at, kPart, false}, kPart);
      if (!part) {
        if (at == 0) return std::nullopt;
        break;
      }
      base::write_all(copy.get(), part->bytes);
      at += part->bytes.size();
      size = part->bytes.size() < kPart ? at : std::max(part->file_size, at);
    }
    return copy;
  }
  void make(const formats::VatSettings& settings) override {
    far_.make(settings.object_format, chunker_of(settings));
  }
  void put(const std::string& file, int fd) override { far_.put(file, fd); }
  void finish(const std::set<std::string>& packs) override {
    far_.put_pack_list(std::vector<std::string>(packs.begin(), packs.end()));
  }

 private:
  internal::FarVat far_;
  std::vector<base::ScratchPlace> scratch_;
};

/// Whether a file of that name can be one of a vat: what a host lists says nothing else.
bool is_file_name(const std::string& name) {
  constexpr std::string_view kSuffixes[] = {".blob",     ".blob.gz", ".blob.bz2", ".blob.xz",
                                            ".blob.zst", ".zst",     ".delta"};
  const auto dot = name.find('.');
  return dot != std::string::npos && name.find_first_not_of("0123456789abcdef-") == dot &&
         std::find(std::begin(kSuffixes), std::end(kSuffixes), std::string_view(name).substr(dot)) !=
             std::end(kSuffixes);
}

class Mirror {
 public:
  Mirror(Side& from, Side& to, const MirrorOptions& options) : from_(from), to_(to), options_(options) {}

  MirrorSummary run() {
    const auto settings = from_.settings();
    if (!settings) throw Error(Category::no_store, from_.name() + ": no vat here (no vat.json)");
    const auto there = to_.settings();
    if (there && there->object_format != settings->object_format)
      throw Error(Category::usage, "vats of different object formats cannot be copied between");
    const auto packs = from_.packs();
    if (!packs)
      throw Error(Category::not_found, from_.name() + ": cannot be listed, and there is no cache/packs",
                  "vat index, where the vat is, makes it");
    if (packs->empty()) require_new();
    if (!there && !options_.dry_run) to_.make(*settings);
    const auto known = (there ? to_.packs() : std::nullopt).value_or(std::set<std::string>());
    present_ = known;
    std::set<std::string> absent;
    for (const auto& pack : *packs) {
      if (known.contains(pack)) continue;
      const auto file = std::string(Vat::Impl::kPackDir) + "/" + pack + ".zst";
      switch (copy(file, [&](int fd) { return base::to_hex(base::sha256_of_file(fd)) == pack; })) {
        case Copied::done:
          ++summary_.packs;
          present_.insert(pack);
          break;
        case Copied::absent:
          absent.insert(pack);
          break;
        case Copied::damaged:
          break;
      }
    }
    // Hand-filled blobs are proven by whoever reads them, maps too.
    for (const auto* below : {"primary", "cache/delta", "cache/map"}) copy_below(below, there.has_value());
    if (!options_.dry_run) to_.finish(present_);
    if (absent.empty()) return summary_;
    const auto still = from_.packs();  // some may have gone since the list was read
    for (const auto& pack : absent)
      if (!still || still->contains(pack))
        throw Error(Category::not_found, from_.name() + ": pack " + pack + ": listed, but not there");
    return summary_;
  }

 private:
  /// A vat that has no packs is a new one, or one whose packs were not found.
  void require_new() {
    const auto has_some = [&](const std::string& directory) {
      const auto names = from_.list(directory);
      return std::any_of(names.begin(), names.end(),
                         [](const auto& name) { return name.size() == 2 && base::from_hex(name); });
    };
    if (has_some("primary")) return;  // filled by hand
    if (has_some("cache/map") || has_some("cache/delta"))
      throw Error(Category::not_found, from_.name() + ": has vat.json and maps, but no packs",
                  "is all of primary/ there?");
    if (options_.peers.on_note) options_.peers.on_note(from_.name() + ": a new vat: it has no packs");
  }

  enum class Copied : std::uint8_t { done, absent, damaged };

  void copy_below(const std::string& directory, bool there) {
    for (const auto& prefix : from_.list(directory)) {
      if (prefix.size() != 2 || !base::from_hex(prefix)) continue;
      const auto path = directory + "/" + prefix;
      const auto present = there ? to_.list(path) : std::vector<std::string>();
      const std::set<std::string> known(present.begin(), present.end());
      for (const auto& name : from_.list(path))
        if (!known.contains(name) && is_file_name(name) && copy(path + "/" + name, {}) == Copied::done)
          ++summary_.others;
    }
  }

  Copied copy(const std::string& file, const std::function<bool(int)>& is_good) {
    const auto fd = from_.open(file);
    if (!fd) return Copied::absent;
    if (is_good && !is_good(fd->get())) {
      ++summary_.damaged;
      if (options_.peers.on_note) options_.peers.on_note(file + ": does not match its name; left out");
      return Copied::damaged;
    }
    summary_.size += base::file_size(fd->get());
    if (!options_.dry_run) to_.put(file, fd->get());
    if (options_.progress) options_.progress(summary_.size);
    return Copied::done;
  }

  Side& from_;
  Side& to_;
  const MirrorOptions& options_;
  MirrorSummary summary_;
  std::set<std::string> present_;  ///< packs that the other side has
};

std::unique_ptr<Side> open_side(const MirrorSide& side, const MirrorOptions& options) {
  if (!side.directory.empty()) return std::make_unique<NearSide>(side.directory, options.peers);
  return std::make_unique<FarSide>(side.peer, options.peers, options.scratch);
}

}  // namespace

MirrorSummary mirror(const MirrorSide& from, const MirrorSide& to, const MirrorOptions& options) {
  const auto source = open_side(from, options), destination = open_side(to, options);
  return Mirror(*source, *destination, options).run();
}

}  // namespace vat
