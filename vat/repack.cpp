#include "vat/repack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "vat/adder.h"
#include "vat/internal/vat_impl.h"
#include "vat/maps.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using formats::BlobKind;
using internal::PackRecord;

constexpr const char* kCondemned = "condemned";
constexpr std::size_t kMaxMark = 64;
/// Fewer small packs than this are left alone.
constexpr std::size_t kManyPacks = 10;
/// A pack is small if it is at most so many times as large as those smaller than it are together.
constexpr std::uint64_t kGrowth = 2;
/// Groups with less content are taken apart and their blobs put together with others.
constexpr std::size_t kWholeGroup = std::size_t{256} << 10;

class Repack {
 public:
  Repack(Vat& vat, const RepackOptions& options) : vat_(vat), impl_(vat.impl()), options_(options) {
    if (!options.dry_run) lock_ = impl_.lock_removal();
  }

  RepackSummary run() {
    impl_.refresh(false);
    read_marks();
    remove_condemned();
    const auto chosen = choose();
    if (!chosen.empty()) rewrite(chosen);
    if (options_.grace == 0) remove_condemned();
    if (!options_.dry_run && summary_.removed_packs > 0) refresh_cache(vat_);
    return summary_;
  }

 private:
  [[nodiscard]] std::vector<PackRecord> packs() const {
    return impl_.with_index([](internal::Index& index) { return index.packs(); });
  }

  /// Names of packs that were replaced, and since when.
  void read_marks() {
    const auto marks = base::find_open_at(impl_.dir.get(), std::string("cache/") + kCondemned,
                                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!marks) return;
    for (const auto& name : base::list_directory(marks->get())) {
      if (!Vat::Impl::is_pack_name(name + ".zst")) continue;
      // One that says nothing, or that is of the future, counts from now: waiting longer is never wrong.
      const auto file = base::find_regular_at(marks->get(), name);
      if (!file) continue;
      std::string text(kMaxMark, '\0');
      text.resize(base::read_some(file->get(), {reinterpret_cast<std::byte*>(text.data()), text.size()}));
      const auto since = base::parse_decimal(text.substr(0, text.find('\n')));
      if (since && *since <= static_cast<std::uint64_t>(options_.now))
        condemned_[name + ".zst"] = static_cast<std::int64_t>(*since);
      else
        condemn(marks->get(), name + ".zst");
    }
  }

  void condemn(int marks, const std::string& pack) {
    if (!options_.dry_run)
      base::write_file_atomically(marks, pack.substr(0, 64),
                                  base::as_bytes(std::to_string(options_.now) + "\n"));
    condemned_[pack] = options_.now;
  }

  [[nodiscard]] std::set<std::string> condemned_names() const {
    std::set<std::string> names;
    for (const auto& [name, since] : condemned_) names.insert(name);
    return names;
  }

  [[nodiscard]] base::UniqueFd open_marks() const {
    const auto cache = base::ensure_directory(impl_.dir.get(), "cache", 0777);
    return base::ensure_directory(cache.get(), kCondemned, 0777);
  }

  [[nodiscard]] std::vector<PackRecord> choose() const {
    std::vector<PackRecord> found;
    for (auto& pack : packs())
      if (!condemned_.contains(pack.name)) found.push_back(std::move(pack));
    if (options_.automatic) {
      std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.size < b.size; });
      std::size_t small = 0;
      std::uint64_t total = 0;
      for (std::size_t i = 0; i < found.size() && found[i].size < formats::kPackRollover / 2; ++i) {
        if (found[i].size <= kGrowth * total) small = i + 1;
        total += found[i].size;
      }
      found.resize(small >= kManyPacks ? small : 0);
    }
    if (found.size() == 1 && !options_.level) found.clear();  // it is as good as it gets
    // In the order in which they came, so that what was added together stays together.
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      return std::pair(a.mtime, a.name) < std::pair(b.mtime, b.name);
    });
    return found;
  }

  void rewrite(const std::vector<PackRecord>& chosen) {
    // What lies only in packs that will go has to be written again.
    std::set<std::string> replacing = condemned_names();
    for (const auto& pack : chosen) replacing.insert(pack.name);
    const auto marks = options_.dry_run ? base::UniqueFd() : open_marks();
    AddOptions add;
    add.threads = options_.threads;
    add.level = options_.level.value_or(formats::kDefaultLevel);
    add.dry_run = options_.dry_run;
    add.replacing = &replacing;
    Adder adder(vat_, add);
    for (const auto& pack : chosen) {
      copy(pack, adder);
      ++summary_.packs;
      summary_.size += pack.size;
    }
    const auto added = adder.finish();
    summary_.new_packs = added.packs.size();
    summary_.stored_size = added.stored_size;
    if (options_.dry_run) {
      summary_.new_packs = (added.stored_size + formats::kPackRollover - 1) / formats::kPackRollover;
      if (options_.grace == 0) {
        summary_.removed_packs += summary_.packs;
        summary_.removed_size += summary_.size;
      }
      return;
    }
    // A pack that came out with the same name, byte for byte, is the one that is wanted.
    for (const auto& name : added.packs) {
      replacing.erase(name + ".zst");
      if (condemned_.erase(name + ".zst") > 0) (void)::unlinkat(marks.get(), name.c_str(), 0);
    }
    base::remove_leftovers(marks.get());
    for (const auto& pack : chosen) {
      const auto& name = pack.name;
      if (!replacing.contains(name)) continue;
      if (!is_elsewhere(name, replacing, Proof::known)) {
        ++summary_.kept;
        impl_.note("pack " + name + ": not all of it could be read, so it stays");
        continue;
      }
      condemn(marks.get(), name);
    }
  }

  /// A group of a pack, as its trailer has it.
  struct Group {
    formats::GroupPlace place;
    std::vector<formats::PackedBlob> blobs;
    [[nodiscard]] bool is_single() const { return blobs.size() == 1 && blobs[0].kind == BlobKind::data; }
  };

  /// Puts all that is sound in the pack.
  void copy(const PackRecord& pack, Adder& adder) {
    const auto file = base::find_regular_at(impl_.dir.get(), path_of(pack.name));
    if (!file) return;
    std::optional<Group> group;
    bool after_single = false;
    // Chunks of images lie alone in their groups, one beside the other, and are kept so.
    const auto copy_last = [&](bool before_single) {
      if (!group) return;
      const bool single = group->is_single();
      copy(pack, file->get(), *group, single && (after_single || before_single), adder);
      after_single = single;
    };
    for_each_group(file->get(), pack.size, [&](const auto& place, const auto& blobs) {
      Group next{place, blobs};
      copy_last(next.is_single());
      group = std::move(next);
    });
    copy_last(false);
  }

  void copy(const PackRecord& pack, int file, const Group& group, bool of_image, Adder& adder) {
    const auto& [place, blobs] = group;
    read_ += place.size;
    if (options_.progress) options_.progress(read_);
    try {
      formats::EncodedGroup whole{impl_.read_group(file, place), {}};
      formats::ZstdDecompressor decompressor;
      auto decoded = formats::decode_group(whole.bytes, decompressor);
      formats::name_blobs(impl_.format, decoded);
      const bool sound = std::equal(blobs.begin(), blobs.end(), decoded.blobs.begin(), decoded.blobs.end(),
                                    [](const auto& a, const auto& b) { return a.id == b.id; });
      if (sound && !options_.level && (of_image || decoded.content.size() >= kWholeGroup)) {
        whole.blobs = decoded.blobs;
        if (adder.put_group(std::move(whole))) return;
      }
      for (std::size_t i = 0; i < decoded.blobs.size(); ++i) {
        const auto& blob = decoded.blobs[i];
        if (i >= blobs.size() || blob.id != blobs[i].id) {
          if (i < blobs.size()) impl_.mark_damaged(blobs[i].id, pack.name);
          continue;
        }
        (void)adder.put(blob.id, blob.kind, of_image ? Grouping::single : grouping_of(blob), decoded.blob(i));
      }
    } catch (const Error& error) {
      if (error.category() != Category::corrupt && error.category() != Category::refused) throw;
      impl_.note("pack " + pack.name + ", group at " + std::to_string(place.offset) + ": " + error.what());
      for (const auto& blob : blobs) impl_.mark_damaged(blob.id, pack.name);
    }
  }

  [[nodiscard]] Grouping grouping_of(const formats::PackedBlob& blob) const {
    if (blob.kind != BlobKind::data) return Grouping::text;
    return blob.size <= impl_.parameters.average_size() ? Grouping::small_file : Grouping::chunk;
  }

  void for_each_group(int file, std::uint64_t size, const formats::GroupVisitor& visit) const {
    try {
      formats::read_trailer(impl_.format, base::reader_of(file), size, visit);
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;  // then something in it will be found missing
    }
  }

  /// Whether every blob of the pack has a good copy in a pack that is none of `others`: as the index has it,
  /// or proven by reading it.
  enum class Proof : std::uint8_t { known, read };
  [[nodiscard]] bool is_elsewhere(const std::string& name, const std::set<std::string>& others,
                                  Proof proof) const {
    const auto file = base::find_regular_at(impl_.dir.get(), path_of(name));
    if (!file) return false;
    bool all = true, any = false;
    try {
      formats::read_trailer(
          impl_.format, base::reader_of(file->get()), base::file_size(file->get()),
          [&](const auto&, const std::vector<formats::PackedBlob>& blobs) {
            any = true;
            for (const auto& blob : blobs)
              all = all && (proof == Proof::read
                                ? impl_.has_proven_copy(blob.id, others, Vat::Impl::Copies::in_packs)
                                : impl_.known_good(blob.id, blob.size, &others));
          });
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;
      return false;
    }
    return all && any;
  }

  void remove_condemned() {
    const auto names = condemned_names();
    std::set<std::string> leaving, needed;
    for (const auto& [name, since] : condemned_) {
      struct stat info;
      const auto path = path_of(name);
      const bool there = ::fstatat(impl_.dir.get(), path.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
      if (there && options_.now - since < options_.grace) continue;
      if (there && !is_elsewhere(name, names, Proof::read)) {
        needed.insert(name);  // what took its place is bad or gone
        continue;
      }
      leaving.insert(name);
      if (!there) continue;
      ++summary_.removed_packs;
      summary_.removed_size += static_cast<std::uint64_t>(info.st_size);
    }
    for (const auto* done : {&leaving, &needed})
      for (const auto& name : *done) condemned_.erase(name);
    if ((leaving.empty() && needed.empty()) || options_.dry_run) return;
    // Nobody may have synced what the others hold.
    if (::syncfs(impl_.dir.get()) != 0) base::throw_errno("sync", errno);
    (void)write_pack_list(vat_, leaving);  // first, so that it never names what is gone
    for (const auto& name : leaving) {
      impl_.with_index([&](internal::Index& index) { index.forget_pack(name); });
      if (::unlinkat(impl_.dir.get(), path_of(name).c_str(), 0) != 0 && errno != ENOENT)
        base::throw_errno(path_of(name), errno);
    }
    base::sync_directory(base::open_directory(impl_.dir.get(), Vat::Impl::kPackDir).get());
    const auto marks = open_marks();
    for (const auto* done : {&leaving, &needed})
      for (const auto& name : *done) (void)::unlinkat(marks.get(), name.substr(0, 64).c_str(), 0);
  }

  [[nodiscard]] static std::string path_of(const std::string& pack) {
    return Vat::Impl::kPackDir + ("/" + pack);
  }

  Vat& vat_;
  Vat::Impl& impl_;
  const RepackOptions& options_;
  base::UniqueFd lock_;
  std::map<std::string, std::int64_t> condemned_;
  std::uint64_t read_ = 0;
  RepackSummary summary_;
};

}  // namespace

RepackSummary repack(Vat& vat, const RepackOptions& options) {
  return Repack(vat, options).run();
}

}  // namespace vat
