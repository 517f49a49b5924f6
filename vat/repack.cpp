#include "vat/repack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <set>
#include <vector>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/adder.h"
#include "vat/internal/condemned.h"
#include "vat/internal/vat_impl.h"
#include "vat/lease.h"
#include "vat/maps.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using formats::BlobKind;
using internal::PackRecord;

/// Fewer small packs than this are left alone.
constexpr std::size_t kManyPacks = 10;
/// A pack is small if it is at most so many times as large as those smaller than it are together.
constexpr std::uint64_t kGrowth = 2;
/// Groups with less content are taken apart and their blobs put together with others.
constexpr std::size_t kWholeGroup = std::size_t{256} << 10;

class Repack {
 public:
  Repack(Vat& vat, const RepackOptions& options, const IsLive* is_live)
      : vat_(vat), impl_(vat.impl()), options_(options), is_live_(is_live) {
    if (!options.dry_run) lock_ = impl_.lock_removal();
  }

  RepackSummary run() {
    impl_.refresh(false);
    impl_.refuse_unreadable();
    condemned_ = internal::read_marks(impl_.dir.get(), options_.now);
    if (!options_.dry_run) {
      internal::mend_marks(impl_.dir.get(), options_.now);
      base::remove_leftovers(impl_.open_tmp());
      if (const auto tables = base::find_open_at(impl_.dir.get(), "cache/index", O_RDONLY | O_DIRECTORY))
        base::remove_leftovers(tables->get());
    }
    remove_condemned();
    const auto chosen = is_live_ != nullptr ? choose_dying() : choose();
    if (!chosen.empty()) rewrite(chosen);
    if (options_.grace == 0 && is_live_ == nullptr) remove_condemned();
    if (is_live_ != nullptr) count_waiting();
    return summary_;
  }

 private:
  [[nodiscard]] std::vector<PackRecord> packs() const {
    return impl_.with_index([](internal::Index& index) { return index.packs(); });
  }

  void condemn(const std::string& pack) {
    // Leases that were taken while it was found out what is live are older than the mark.
    const auto now =
        is_live_ != nullptr ? std::max<std::int64_t>(options_.now, std::time(nullptr)) : options_.now;
    condemned_[pack] = {now, is_live_ != nullptr};
    if (!options_.dry_run) internal::write_mark(impl_.dir.get(), pack, condemned_[pack]);
  }

  [[nodiscard]] std::set<std::string> condemned_names() const {
    std::set<std::string> names;
    for (const auto& [name, mark] : condemned_) names.insert(name);
    return names;
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

  /// Condemns packs in which nothing is live; gives those of which more than half is not.
  [[nodiscard]] std::vector<PackRecord> choose_dying() {
    std::vector<PackRecord> dying;
    for (auto& pack : packs()) {
      if (condemned_.contains(pack.name)) continue;
      const auto file = base::find_regular_at(impl_.dir.get(), path_of(pack.name));
      if (!file) continue;
      std::uint64_t live_blobs = 0, live_content = 0, live = 0, dead = 0;
      const auto is_sound = for_each_group(file->get(), pack.size, [&](const auto& place, const auto& blobs) {
        std::uint64_t content = 0, live_here = 0;
        for (const auto& blob : blobs) {
          content += blob.size;
          if (!(*is_live_)(blob.id)) continue;
          live_here += blob.size;
          ++live_blobs;
        }
        live_content += live_here;
        // Of a group with both a share is dead.
        const auto share = content == 0 ? 1.0 : static_cast<double>(live_here) / static_cast<double>(content);
        const auto size = static_cast<double>(place.size);
        live += static_cast<std::uint64_t>(size * share);
        dead += static_cast<std::uint64_t>(size * (1 - share));
      });
      if (live_blobs == 0 && is_sound) {
        ++summary_.dead_packs;
        summary_.dead_size += pack.size;
        summary_.condemned.push_back(pack.name);
        condemn(pack.name);
        continue;
      }
      summary_.live_blobs += live_blobs;
      summary_.live_size += live_content;
      if (dead > live) dying.push_back(std::move(pack));
    }
    return dying;
  }

  void count_waiting() {
    for (const auto& [name, mark] : condemned_) {
      const auto info = base::find_stat(impl_.dir.get(), path_of(name));
      if (!info) continue;
      ++summary_.waiting_packs;
      summary_.waiting_size += static_cast<std::uint64_t>(info->st_size);
    }
  }

  [[nodiscard]] bool is_live(const base::ObjectId& id) const {
    return is_live_ == nullptr || (*is_live_)(id);
  }

  void rewrite(const std::vector<PackRecord>& chosen) {
    // What lies only in packs that will go has to be written again.
    std::set<std::string> replacing = condemned_names();
    for (const auto& pack : chosen) replacing.insert(pack.name);
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
      if (condemned_.erase(name + ".zst") > 0) internal::remove_marks(impl_.dir.get(), {name + ".zst"});
    }
    for (const auto& pack : chosen) {
      const auto& name = pack.name;
      if (!replacing.contains(name)) continue;
      if (!is_elsewhere(name, replacing, Proof::known)) {
        ++summary_.kept;
        impl_.note("pack " + name + ": not all of it could be read, so it stays");
        continue;
      }
      condemn(name);
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
    (void)for_each_group(file->get(), pack.size, [&](const auto& place, const auto& blobs) {
      Group next{place, blobs};
      copy_last(next.is_single());
      group = std::move(next);
    });
    copy_last(false);
  }

  void copy(const PackRecord& pack, int file, const Group& group, bool of_image, Adder& adder) {
    const auto& [place, blobs] = group;
    const auto live =
        std::count_if(blobs.begin(), blobs.end(), [&](const auto& blob) { return is_live(blob.id); });
    if (live == 0) return;
    read_ += place.size;
    if (options_.progress) options_.progress(read_);
    try {
      formats::EncodedGroup whole{impl_.read_group(file, place), {}};
      formats::ZstdDecompressor decompressor;
      auto decoded = formats::decode_group(whole.bytes, decompressor);
      formats::name_blobs(impl_.format, decoded);
      const bool sound = std::equal(blobs.begin(), blobs.end(), decoded.blobs.begin(), decoded.blobs.end(),
                                    [](const auto& a, const auto& b) { return a.id == b.id; });
      if (sound && !options_.level && static_cast<std::size_t>(live) == blobs.size() &&
          (of_image || decoded.content.size() >= kWholeGroup)) {
        whole.blobs = decoded.blobs;
        if (adder.put_group(std::move(whole))) return;
      }
      for (std::size_t i = 0; i < decoded.blobs.size(); ++i) {
        const auto& blob = decoded.blobs[i];
        if (i >= blobs.size() || blob.id != blobs[i].id) {
          if (i < blobs.size()) impl_.mark_damaged(blobs[i].id, pack.name);
          continue;
        }
        if (!is_live(blob.id)) continue;
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

  /// False if the trailer is damaged: then nothing is known of the rest, which will be found missing.
  bool for_each_group(int file, std::uint64_t size, const formats::GroupVisitor& visit) const {
    try {
      formats::read_trailer(impl_.format, base::reader_of(file), size, visit);
      return true;
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;
      return false;
    }
  }

  enum class Proof : std::uint8_t { known, read };
  [[nodiscard]] bool is_elsewhere(const formats::PackedBlob& blob, const std::set<std::string>& others,
                                  Proof proof) const {
    return proof == Proof::read ? impl_.has_proven_copy(blob.id, others, Vat::Impl::Copies::in_packs)
                                : impl_.known_good(blob.id, blob.size, &others);
  }

  /// Whether every live blob of the pack has a good copy in a pack that is none of `others`: as the index has
  /// it, or proven by reading it.
  [[nodiscard]] bool is_elsewhere(const std::string& name, const std::set<std::string>& others,
                                  Proof proof) const {
    const auto file = base::find_regular_at(impl_.dir.get(), path_of(name));
    if (!file) return false;
    bool all = true, any = false;
    try {
      formats::read_trailer(impl_.format, base::reader_of(file->get()), base::file_size(file->get()),
                            [&](const auto&, const std::vector<formats::PackedBlob>& blobs) {
                              any = true;
                              for (const auto& blob : blobs)
                                all = all && (!is_live(blob.id) || is_elsewhere(blob, others, proof));
                            });
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;
      return false;
    }
    return all && any;
  }

  void remove_condemned() {
    if (options_.before_removal && is_live_ != nullptr && !condemned_.empty()) options_.before_removal();
    const auto names = condemned_names();
    const auto marks = condemned_;
    std::set<std::string> leaving, needed;
    const auto oldest = internal::find_oldest_lease(impl_.dir.get());
    for (const auto& [name, mark] : condemned_) {
      const auto there = base::find_stat(impl_.dir.get(), path_of(name));
      if (there && (options_.now - mark.since < options_.grace || (oldest && *oldest <= mark.since)))
        continue;
      if (there && mark.is_dead && is_live_ == nullptr) continue;  // that takes to know what is live
      if (there && !is_elsewhere(name, names, Proof::read)) {
        needed.insert(name);  // what took its place is bad or gone
        continue;
      }
      leaving.insert(name);
      if (!there) continue;
      summary_.removed.push_back(name);
      ++summary_.removed_packs;
      summary_.removed_size += static_cast<std::uint64_t>(there->st_size);
    }
    for (const auto* done : {&leaving, &needed})
      for (const auto& name : *done) condemned_.erase(name);
    if ((leaving.empty() && needed.empty()) || options_.dry_run) return;
    // Nobody may have synced what the others hold.
    if (::syncfs(impl_.dir.get()) != 0) base::throw_errno("sync " + impl_.path, errno);
    // First, so that it never names what is gone; but on a full disk, where what goes makes the room for it.
    try {
      (void)write_pack_list(vat_, leaving);
    } catch (const Error& error) {
      if (error.category() != Category::local) throw;
    }
    for (const auto& name : leaving) {
      const internal::CondemnedLock lock(impl_.dir.get());
      if (!internal::has_mark(impl_.dir.get(), name, marks.at(name))) continue;  // somebody adds just that
      impl_.with_index([&](internal::Index& index) { index.forget_pack(name); });
      if (::unlinkat(impl_.dir.get(), path_of(name).c_str(), 0) != 0 && errno != ENOENT)
        base::throw_errno(path_of(name), errno);
    }
    // The marks go last: should this end before, the next run finds them and does the rest.
    refresh_cache(vat_);
    for (const auto* done : {&leaving, &needed}) internal::remove_marks(impl_.dir.get(), *done);
  }

  [[nodiscard]] static std::string path_of(const std::string& pack) {
    return Vat::Impl::kPackDir + ("/" + pack);
  }

  Vat& vat_;
  Vat::Impl& impl_;
  const RepackOptions& options_;
  base::UniqueFd lock_;
  const IsLive* is_live_;  ///< nullptr: all is
  std::map<std::string, internal::Mark> condemned_;
  std::uint64_t read_ = 0;
  RepackSummary summary_;
};

}  // namespace

RepackSummary repack(Vat& vat, const RepackOptions& options) {
  return Repack(vat, options, nullptr).run();
}

RepackSummary collect_garbage(Vat& vat, const RepackOptions& options, const IsLive& is_live) {
  return Repack(vat, options, &is_live).run();
}

}  // namespace vat
