#include "formats/disk/qcow2.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/compression/bounded.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr std::array<unsigned char, 4> kMagic{'Q', 'F', 'I', 0xfb};
constexpr std::uint64_t kMaxL1 = std::uint64_t{32} << 20;  ///< bytes of the first-level table, as QEMU has it
constexpr std::size_t kMaxName = 1023;
constexpr std::uint32_t kBackingFormat = 0xe2792aca;  ///< header extension

// Incompatible features.
constexpr std::uint64_t kDirty = 1, kCorrupt = 2, kExternalData = 4, kCompressionType = 8, kSubclusters = 16;

// Entries of the tables.
constexpr std::uint64_t kOffset = 0x00ff'ffff'ffff'fe00, kCopied = std::uint64_t{1} << 63;
constexpr std::uint64_t kCompressed = std::uint64_t{1} << 62, kZero = 1;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, "qcow2: " + what);
}

struct Header {
  std::uint32_t version = 0, cluster_bits = 0, header_size = 72;
  std::uint64_t size = 0;
  std::uint64_t l1_offset = 0, l1_count = 0;
  bool subclusters = false, zstd = false;
  std::optional<Backing> backing;
  [[nodiscard]] std::uint64_t cluster_size() const { return std::uint64_t{1} << cluster_bits; }
  [[nodiscard]] std::uint64_t entry_size() const { return subclusters ? 16 : 8; }
  [[nodiscard]] std::uint64_t l2_count() const { return cluster_size() / entry_size(); }
};

/// All of the first cluster that is there.
base::Buffer read_first_cluster(const base::ReadAt& read, std::uint64_t file_size) {
  std::array<std::byte, 112> start{};
  if (file_size < 72 ||
      !read(0, std::span(start).first(static_cast<std::size_t>(std::min<std::uint64_t>(file_size, 112)))))
    refuse("cut off in its header");
  if (!is_qcow2(start)) refuse("not a qcow2 image");
  const auto bits = base::load_be<std::uint32_t>(start.data() + 20);
  if (bits < 9 || bits > 21) refuse("clusters of 2^" + std::to_string(bits) + " bytes");
  base::Buffer bytes(static_cast<std::size_t>(std::min(file_size, std::uint64_t{1} << bits)));
  if (!read(0, bytes)) refuse("cut off in its header");
  bytes.resize(std::max<std::size_t>(bytes.size(), 112));
  return bytes;
}

/// The extension that names the format of the disk below.
std::string read_backing_format(const base::Buffer& bytes, std::uint32_t at, std::uint64_t end) {
  std::string format;
  while (at + 8 <= end) {
    const auto type = base::load_be<std::uint32_t>(bytes.data() + at);
    const auto size = base::load_be<std::uint32_t>(bytes.data() + at + 4);
    at += 8;
    if (type == 0) break;
    if (size > end - at) refuse("header extension beyond the first cluster");
    if (type == kBackingFormat) format = base::as_chars(base::Bytes(bytes).subspan(at, size));
    at += (size + 7) & ~7U;
  }
  return format;
}

Header read_header(const base::ReadAt& read, std::uint64_t file_size) {
  const auto bytes = read_first_cluster(read, file_size);
  const auto u32 = [&](std::size_t at) { return base::load_be<std::uint32_t>(bytes.data() + at); };
  const auto u64 = [&](std::size_t at) { return base::load_be<std::uint64_t>(bytes.data() + at); };
  Header header;
  header.version = u32(4);
  if (header.version != 2 && header.version != 3) refuse("version " + std::to_string(header.version));
  header.cluster_bits = u32(20);
  header.size = u64(24);
  const auto cluster = header.cluster_size();
  if (header.size > kMaxDiskSize) refuse("a disk of " + std::to_string(header.size) + " bytes");
  if (u32(32) != 0) refuse("it is encrypted");
  if (header.version == 3) {
    const auto features = u64(72);
    if (features & kCorrupt) refuse("it is marked as damaged; qemu-img check -r mends what can be");
    if (features & kExternalData) refuse("its data is in another file");
    if (features & ~(kDirty | kCorrupt | kExternalData | kCompressionType | kSubclusters))
      refuse("it needs features that are not known here");
    header.subclusters = (features & kSubclusters) != 0;
    if (u32(96) > 6) refuse("refcounts of 2^" + std::to_string(u32(96)) + " bits");
    header.header_size = u32(100);
    if (header.header_size < 104 || header.header_size % 8 != 0 || header.header_size > bytes.size())
      refuse("a header of " + std::to_string(header.header_size) + " bytes");
    const auto compression = header.header_size > 104 ? std::to_integer<unsigned>(bytes[104]) : 0;
    if (compression > 1 || (compression == 1) != ((features & kCompressionType) != 0))
      refuse("compression " + std::to_string(compression));
    header.zstd = compression == 1;
    if (header.subclusters && header.cluster_bits < 14) refuse("subclusters in clusters too small for them");
  }
  const auto require_inside = [&](std::uint64_t offset, std::uint64_t size, const char* what) {
    if (offset % cluster != 0 || offset > file_size || size > file_size - offset)
      refuse(std::string(what) + " lies outside the file");
  };
  header.l1_count = u32(36);
  header.l1_offset = u64(40);
  const auto covered = cluster * header.l2_count();  // bytes of disk by each entry of the first level
  if (header.l1_count * 8 > kMaxL1)
    refuse("a first-level table of " + std::to_string(header.l1_count) + " entries");
  const auto needed = (header.size + covered - 1) / covered;
  if (header.l1_count < needed) refuse("a first-level table smaller than the disk");
  require_inside(header.l1_offset, header.l1_count * 8, "the first-level table");
  header.l1_count = needed;
  require_inside(u64(48), std::uint64_t{u32(56)} * cluster, "the table of refcounts");
  if (u32(60) > 65536) refuse(std::to_string(u32(60)) + " snapshots");
  if (u32(60) > 0) require_inside(u64(64), std::uint64_t{u32(60)} * 40, "the table of snapshots");

  const auto name_offset = u64(8);
  const auto name_size = u32(16);
  auto end = std::min<std::uint64_t>(bytes.size(), std::min(file_size, cluster));
  if (name_offset != 0) {
    if (name_size == 0 || name_size > kMaxName || name_offset < header.header_size || name_offset > end ||
        name_size > end - name_offset)
      refuse("the name of the disk below lies outside the header");
    header.backing.emplace();
    header.backing->name =
        base::as_chars(base::Bytes(bytes).subspan(static_cast<std::size_t>(name_offset), name_size));
    end = name_offset;
  }
  const auto format = read_backing_format(bytes, header.header_size, end);
  if (header.backing) header.backing->format = format;
  return header;
}

/// Runs of clusters of the file, each of which may be used once.
class Used {
 public:
  void add(std::uint64_t cluster, std::uint64_t count) {
    if (count == 0) return;
    if (!runs_.empty() && runs_.back().begin + runs_.back().count == cluster)
      runs_.back().count += count;
    else
      runs_.push_back({cluster, count});
  }
  void require_disjoint() {
    std::sort(runs_.begin(), runs_.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < runs_.size(); ++i)
      if (runs_[i - 1].begin + runs_[i - 1].count > runs_[i].begin)
        refuse("cluster " + std::to_string(runs_[i].begin) + " is used twice");
  }

 private:
  struct Run {
    std::uint64_t begin, count;
  };
  std::vector<Run> runs_;
};

class Qcow2 final : public Disk {
 public:
  Qcow2(base::ReadAt read, std::uint64_t file_size, std::unique_ptr<Disk> backing)
      : read_(std::move(read)),
        file_size_(file_size),
        header_(read_header(read_, file_size)),
        backing_(std::move(backing)) {
    base::Buffer table(static_cast<std::size_t>(header_.l1_count * 8));
    if (!read_(header_.l1_offset, table)) refuse("cut off in its first-level table");
    for (std::size_t i = 0; i < header_.l1_count; ++i)
      l1_.push_back(base::load_be<std::uint64_t>(table.data() + i * 8));
    check_tables();
  }

  [[nodiscard]] std::uint64_t size() const noexcept override { return header_.size; }

  [[nodiscard]] Extent find_extent(std::uint64_t at) override {
    Extent there{0, 0};  // the last answer from below, which may be of use again
    while (at < size()) {
      const auto piece = piece_at(at);
      const auto end = std::min(size(), piece.end);
      if (piece.type == Piece::Type::below && backing_ != nullptr && at < backing_->size()) {
        if (at >= there.end) there = backing_->find_extent(at);
        if (there.begin < std::min(end, backing_->size()))
          return {std::max(at, there.begin), std::min(end, there.end)};
      } else if (piece.type == Piece::Type::plain || piece.type == Piece::Type::compressed) {
        return {at, end};
      }
      at = end;
    }
    return {size(), size()};
  }

  [[nodiscard]] Extent find_changed(std::uint64_t at) override {
    std::optional<std::uint64_t> begin;
    const auto same_to = backing_ == nullptr ? 0 : backing_->size();
    while (at < size()) {
      const auto piece = piece_at(at);
      const bool is_changed = piece.type != Piece::Type::below || at >= same_to;
      if (is_changed && !begin) begin = at;
      if (!is_changed && begin) return {*begin, at};
      at = std::min(size(), is_changed ? piece.end : std::min(piece.end, same_to));
    }
    return {begin.value_or(size()), size()};
  }

  void read(std::uint64_t at, base::MutableBytes to) override {
    if (at > size() || to.size() > size() - at) throw Error(Category::internal, "read beyond the disk");
    while (!to.empty()) {
      const auto piece = piece_at(at);
      const auto part =
          to.first(static_cast<std::size_t>(std::min<std::uint64_t>(to.size(), piece.end - at)));
      switch (piece.type) {
        case Piece::Type::zero:
          std::fill(part.begin(), part.end(), std::byte{0});
          break;
        case Piece::Type::below:
          read_below(at, part);
          break;
        case Piece::Type::plain:
          read_file(piece.offset, part);
          break;
        case Piece::Type::compressed:
          read_compressed(piece.entry, at % header_.cluster_size(), part);
          break;
      }
      at += part.size();
      to = to.subspan(part.size());
    }
  }

 private:
  /// Bytes from a place on that are kept in the same way.
  struct Piece {
    enum class Type : std::uint8_t { below, zero, plain, compressed };
    Type type = Type::below;
    std::uint64_t end = 0;     ///< in the disk; the place of plain bytes goes on to there
    std::uint64_t offset = 0;  ///< plain: in the file
    std::uint64_t entry = 0;   ///< compressed
  };

  void check_tables() {
    const auto cluster = header_.cluster_size();
    Used used;
    used.add(0, 1);
    used.add(header_.l1_offset / cluster, (header_.l1_count * 8 + cluster - 1) / cluster);
    for (std::uint64_t i = 0; i < l1_.size(); ++i) {
      if (l1_[i] & ~(kOffset | kCopied))
        refuse("first-level entry " + std::to_string(i) + " has unknown bits");
      const auto offset = l1_[i] & kOffset;
      if (offset == 0) continue;
      if (offset % cluster != 0 || offset > file_size_ || cluster > file_size_ - offset)
        refuse("the second-level table " + std::to_string(i) + " lies outside the file");
      used.add(offset / cluster, 1);
    }
    used.require_disjoint();  // before any is read: the same one might be named many times
    for (std::uint64_t i = 0; i < l1_.size(); ++i) {
      if ((l1_[i] & kOffset) == 0) continue;
      load_l2(i);
      for (std::uint64_t j = 0; j < header_.l2_count(); ++j) check_entry(j, used);
    }
    used.require_disjoint();
  }

  void check_entry(std::uint64_t j, Used& used) {
    const auto entry = l2_entry(j);
    if (entry & kCompressed) {
      (void)compressed_place(entry);
      if (header_.subclusters && bitmap(j) != 0) refuse("a compressed cluster with subclusters");
      return;
    }
    const auto known = kOffset | kCopied | (header_.version == 3 && !header_.subclusters ? kZero : 0);
    if (entry & ~known) refuse("a cluster's entry has unknown bits");
    if (header_.subclusters && (bitmap(j) & (bitmap(j) >> 32) & 0xffff'ffff) != 0)
      refuse("a subcluster is zero and not");
    const auto offset = entry & kOffset;
    if (offset == 0) {
      if (header_.subclusters && (bitmap(j) & 0xffff'ffff) != 0) refuse("a subcluster that lies nowhere");
      return;
    }
    if (offset % header_.cluster_size() != 0 || offset >= file_size_)
      refuse("cluster at " + std::to_string(offset) + " lies outside the file");
    used.add(offset / header_.cluster_size(), 1);
  }

  void load_l2(std::uint64_t index) {
    if (loaded_ == index && !l2_.empty()) return;
    l2_.resize(static_cast<std::size_t>(header_.cluster_size()));
    loaded_ = index;
    if (!read_(l1_[static_cast<std::size_t>(index)] & kOffset, l2_))
      refuse("cut off in a second-level table");
  }
  [[nodiscard]] std::uint64_t l2_entry(std::uint64_t j) const {
    return base::load_be<std::uint64_t>(l2_.data() + j * header_.entry_size());
  }
  /// Bit i: subcluster i is there; bit 32 + i: it is zero.
  [[nodiscard]] std::uint64_t bitmap(std::uint64_t j) const {
    return base::load_be<std::uint64_t>(l2_.data() + j * 16 + 8);
  }

  [[nodiscard]] Piece piece_at(std::uint64_t at) {
    const auto cluster = header_.cluster_size();
    const auto number = at / cluster, index = number / header_.l2_count(), j = number % header_.l2_count();
    Piece piece;
    if ((l1_[static_cast<std::size_t>(index)] & kOffset) == 0) {
      piece.end = (index + 1) * header_.l2_count() * cluster;
      return piece;
    }
    load_l2(index);
    piece.end = (number + 1) * cluster;
    const auto entry = l2_entry(j);
    const auto offset = entry & kOffset;
    if (entry & kCompressed) {
      piece.type = Piece::Type::compressed;
      piece.entry = entry;
      return piece;
    }
    piece.offset = offset + at % cluster;
    if (header_.subclusters) {
      const auto size = cluster / 32, sub = at % cluster / size;
      piece.type = subcluster(j, sub);
      auto last = sub + 1;
      while (last < 32 && subcluster(j, last) == piece.type) ++last;
      piece.end = number * cluster + last * size;
    } else if (entry & kZero) {
      piece.type = Piece::Type::zero;
    } else if (offset != 0) {
      piece.type = Piece::Type::plain;
    }
    return piece;
  }

  [[nodiscard]] Piece::Type subcluster(std::uint64_t j, std::uint64_t sub) const {
    const auto bits = bitmap(j);
    if (bits >> (32 + sub) & 1) return Piece::Type::zero;
    return bits >> sub & 1 ? Piece::Type::plain : Piece::Type::below;
  }

  void read_below(std::uint64_t at, base::MutableBytes to) {
    const auto there = backing_ == nullptr || at >= backing_->size()
                           ? 0
                           : std::min<std::uint64_t>(to.size(), backing_->size() - at);
    if (there > 0) backing_->read(at, to.first(static_cast<std::size_t>(there)));
    std::fill(to.begin() + static_cast<std::ptrdiff_t>(there), to.end(), std::byte{0});
  }

  /// The file may end in its last cluster; the rest is zero.
  void read_file(std::uint64_t offset, base::MutableBytes to) {
    const auto there = offset >= file_size_ ? 0 : std::min<std::uint64_t>(to.size(), file_size_ - offset);
    if (there > 0 && !read_(offset, to.first(static_cast<std::size_t>(there))))
      throw Error(Category::local, "changed while it was read");
    std::fill(to.begin() + static_cast<std::ptrdiff_t>(there), to.end(), std::byte{0});
  }

  struct Place {
    std::uint64_t offset, size;
  };
  /// Compressed bytes end somewhere in the last of their sectors of 512.
  [[nodiscard]] Place compressed_place(std::uint64_t entry) const {
    const auto bits = 62 - (header_.cluster_bits - 8);
    const auto offset = entry & ((std::uint64_t{1} << bits) - 1);
    const auto sectors = ((entry & (kCompressed - 1)) >> bits) + 1;
    if (entry & kCopied || offset >= file_size_) refuse("a compressed cluster lies outside the file");
    return {offset, std::min(sectors * 512 - offset % 512, file_size_ - offset)};
  }

  void read_compressed(std::uint64_t entry, std::uint64_t at, base::MutableBytes to) {
    if (entry != decompressed_) {
      const auto place = compressed_place(entry);
      base::Buffer bytes(static_cast<std::size_t>(place.size));
      read_file(place.offset, bytes);
      cluster_.resize(static_cast<std::size_t>(header_.cluster_size()));
      decompressed_ = 0;
      try {
        header_.zstd ? decompress_zstd(bytes, cluster_) : decompress_deflate(bytes, cluster_);
      } catch (const Error& error) {
        if (error.category() != Category::corrupt) throw;
        refuse("compressed cluster at " + std::to_string(place.offset) + ": " + error.what());
      }
      decompressed_ = entry;
    }
    std::copy_n(cluster_.begin() + static_cast<std::ptrdiff_t>(at), to.size(), to.begin());
  }

  const base::ReadAt read_;
  const std::uint64_t file_size_;
  const Header header_;
  const std::unique_ptr<Disk> backing_;
  std::vector<std::uint64_t> l1_;
  std::uint64_t loaded_ = 0;  ///< index of the second-level table in l2_, unless that is empty
  base::Buffer l2_;
  std::uint64_t decompressed_ = 0;  ///< entry of the cluster in cluster_; 0: none
  base::Buffer cluster_;
};

}  // namespace

bool is_qcow2(base::Bytes begin) {
  return begin.size() >= kMagic.size() &&
         std::equal(kMagic.begin(), kMagic.end(), begin.begin(),
                    [](unsigned char a, std::byte b) { return std::byte{a} == b; });
}

std::optional<Backing> find_backing(const base::ReadAt& read, std::uint64_t file_size) {
  return read_header(read, file_size).backing;
}

std::unique_ptr<Disk> open_qcow2(base::ReadAt read, std::uint64_t file_size, std::unique_ptr<Disk> backing) {
  return std::make_unique<Qcow2>(std::move(read), file_size, std::move(backing));
}

}  // namespace formats
