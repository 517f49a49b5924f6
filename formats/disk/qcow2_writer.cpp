#include "formats/disk/qcow2_writer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/compression/zstd.h"

namespace formats {
namespace {

constexpr std::uint32_t kBits = 16;
constexpr std::uint64_t kCluster = std::uint64_t{1} << kBits;
constexpr std::uint64_t kPerTable =
    kCluster / 8;  ///< entries of a second-level table, and of the table of refcounts
constexpr std::uint64_t kPerBlock = kCluster / 2;  ///< refcounts of a block of them
constexpr std::uint64_t kCopied = std::uint64_t{1} << 63, kCompressed = std::uint64_t{1} << 62, kZero = 1;
constexpr std::uint64_t kCompressionType = 8;      ///< incompatible feature
constexpr unsigned kSectorsAt = 62 - (kBits - 8);  ///< bit of a compressed cluster's entry
constexpr std::uint32_t kBackingFormat = 0xe2792aca;
constexpr std::size_t kHeaderSize = 112;
constexpr std::uint64_t kSector = 512;  ///< bytes

bool is_zero(base::Bytes bytes) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), kZeros.size())))
    if (std::memcmp(bytes.data(), kZeros.data(), std::min(bytes.size(), kZeros.size())) != 0) return false;
  return true;
}

constexpr std::uint64_t divide_up(std::uint64_t a, std::uint64_t b) {
  return (a + b - 1) / b;
}

/// Clusters are given out one after the other: header and first-level table, data with the second-level table
/// of each stretch behind it, refcounts.
class Writer {
 public:
  Writer(Disk& disk, int fd, const Qcow2Options& options)
      : disk_(disk),
        fd_(fd),
        below_(options.below),
        compresses_(options.compress),
        l1_(static_cast<std::size_t>(divide_up(disk.size(), kCluster * kPerTable))) {
    next_ = 1 + std::max<std::uint64_t>(1, divide_up(l1_.size() * 8, kCluster));
  }

  void run(const std::function<void(std::uint64_t)>& progress) {
    base::Buffer content(kCluster);
    for (std::uint64_t at = 0; at < disk_.size();) {
      const auto extent = below_ ? disk_.find_changed(at) : disk_.find_extent(at);
      if (extent.begin >= disk_.size()) break;
      for (at = extent.begin / kCluster * kCluster; at < extent.end; at += kCluster) {
        put(at, content);
        if (progress) progress(std::min(at + kCluster, disk_.size()));
      }
    }
    end_table();
    write_refcounts();
    base::Buffer table;
    for (const auto offset : l1_) base::append_be(table, offset == 0 ? offset : offset | kCopied);
    base::write_at(fd_, kCluster, table);
    write_header();
  }

 private:
  void put(std::uint64_t at, base::Buffer& content) {
    const auto cluster = at / kCluster;
    const auto size = static_cast<std::size_t>(std::min(kCluster, disk_.size() - at));
    std::fill(content.begin(), content.end(), std::byte{0});
    disk_.read(at, std::span(content).first(size));
    const bool zero = is_zero(content);
    if (zero && !below_) return;
    if (table_.empty() || table_of_ != cluster / kPerTable) {
      end_table();
      table_.resize(kPerTable);
      table_of_ = cluster / kPerTable;
    }
    auto& entry = table_[static_cast<std::size_t>(cluster % kPerTable)];
    if (zero) {
      entry = kZero;
      return;
    }
    if (entry != 0 || (compresses_ && put_compressed(content, entry)))
      return;  // not 0: two runs in one cluster
    entry = next_ * kCluster | kCopied;
    base::write_at(fd_, next_++ * kCluster, content);
  }

  /// One frame after the other, at any byte. False if it would not get smaller.
  bool put_compressed(base::Bytes content, std::uint64_t& entry) {
    frame_.clear();
    const auto size = compressor_.compress(content, frame_);
    if (size + kSector > content.size()) return false;
    const auto room = divide_up(packed_, kCluster) * kCluster - packed_;
    if (room < size && packed_ + room != next_ * kCluster) packed_ = next_ * kCluster;
    const auto begin = packed_, end = packed_ + size;
    next_ = std::max(next_, divide_up(end, kCluster));
    users_.resize(static_cast<std::size_t>(next_));
    for (auto cluster = begin / kCluster; cluster * kCluster < end; ++cluster)
      ++users_[static_cast<std::size_t>(cluster)];
    const auto sectors = (end - 1) / kSector - begin / kSector;  // besides the first
    entry = kCompressed | sectors << kSectorsAt | begin;
    base::write_at(fd_, begin, frame_);
    packed_ = end;
    return true;
  }

  void end_table() {
    if (table_.empty()) return;
    base::Buffer bytes;
    for (const auto entry : table_) base::append_be(bytes, entry);
    base::write_at(fd_, next_ * kCluster, bytes);
    l1_[static_cast<std::size_t>(table_of_)] = next_++ * kCluster;
    table_.clear();
  }

  /// Each cluster is used once, those of the refcounts too; but for those with compressed ones in them.
  [[nodiscard]] std::uint16_t users_of(std::uint64_t cluster) const {
    const auto users = cluster < users_.size() ? users_[static_cast<std::size_t>(cluster)] : std::uint16_t{0};
    return std::max<std::uint16_t>(users, 1);
  }

  void write_refcounts() {
    std::uint64_t blocks = 0;
    while (true) {
      tables_ = divide_up(blocks, kPerTable);
      const auto needed = divide_up(next_ + tables_ + blocks, kPerBlock);
      if (needed == blocks) break;
      blocks = needed;
    }
    refcounts_ = next_;
    const auto used = next_ + tables_ + blocks;
    base::Buffer table, block;
    for (std::uint64_t i = 0; i < blocks; ++i) {
      const auto place = next_ + tables_ + i;
      base::append_be(table, place * kCluster);
      block.clear();
      for (std::uint64_t j = 0; j < kPerBlock; ++j)
        base::append_be(block, i * kPerBlock + j < used ? users_of(i * kPerBlock + j) : std::uint16_t{0});
      base::write_at(fd_, place * kCluster, block);
    }
    table.resize(static_cast<std::size_t>(tables_ * kCluster));
    base::write_at(fd_, refcounts_ * kCluster, table);
  }

  /// Last: before it the file is no image.
  void write_header() {
    base::Buffer extensions;
    if (below_) {
      base::append_be(extensions, kBackingFormat);
      base::append_be(extensions, static_cast<std::uint32_t>(below_->format.size()));
      base::append(extensions, base::as_bytes(below_->format));
      extensions.resize(divide_up(extensions.size(), 8) * 8);
    }
    extensions.resize(extensions.size() + 8);  // the end of them
    base::Buffer header;
    base::append_be(header, std::uint32_t{0x514649fb});
    base::append_be(header, std::uint32_t{3});
    base::append_be(header, below_ ? std::uint64_t{kHeaderSize + extensions.size()} : std::uint64_t{0});
    base::append_be(header, below_ ? static_cast<std::uint32_t>(below_->name.size()) : std::uint32_t{0});
    base::append_be(header, kBits);
    base::append_be(header, disk_.size());
    base::append_be(header, std::uint32_t{0});  // not encrypted
    base::append_be(header, static_cast<std::uint32_t>(l1_.size()));
    base::append_be(header, kCluster);
    base::append_be(header, refcounts_ * kCluster);
    base::append_be(header, static_cast<std::uint32_t>(tables_));
    base::append_be(header, std::uint32_t{0});  // no snapshots
    base::append_be(header, std::uint64_t{0});
    base::append_be(header, compresses_ ? kCompressionType : std::uint64_t{0});  // features
    base::append_be(header, std::uint64_t{0});
    base::append_be(header, std::uint64_t{0});
    base::append_be(header, std::uint32_t{4});  // refcounts of 16 bits
    base::append_be(header, static_cast<std::uint32_t>(kHeaderSize));
    base::append_be(header, compresses_ ? std::uint64_t{1} << 56 : std::uint64_t{0});  // zstd, and padding
    base::append(header, extensions);
    if (below_) base::append(header, base::as_bytes(below_->name));
    header.resize(kCluster);
    base::write_at(fd_, 0, header);
  }

  Disk& disk_;
  const int fd_;
  const std::optional<Backing>& below_;
  const bool compresses_;
  std::vector<std::uint64_t> l1_;  ///< offsets of second-level tables
  std::uint64_t next_ = 0;         ///< cluster of the file that is free, as are all after it
  std::vector<std::uint64_t> table_;
  ZstdCompressor compressor_;
  base::Buffer frame_;
  std::uint64_t packed_ = 0;          ///< where the last compressed cluster ends
  std::vector<std::uint16_t> users_;  ///< how many compressed clusters lie in a cluster of the file
  std::uint64_t table_of_ = 0;        ///< which of the second-level tables it is
  std::uint64_t refcounts_ = 0, tables_ = 0;
};

class EmptyDisk final : public Disk {
 public:
  explicit EmptyDisk(std::uint64_t size) : size_(size) {}
  [[nodiscard]] std::uint64_t size() const noexcept override { return size_; }
  [[nodiscard]] Extent find_extent(std::uint64_t) override { return {size_, size_}; }
  [[nodiscard]] Extent find_changed(std::uint64_t) override { return {size_, size_}; }
  void read(std::uint64_t, base::MutableBytes to) override { std::fill(to.begin(), to.end(), std::byte{0}); }

 private:
  std::uint64_t size_;
};

}  // namespace

void write_qcow2(Disk& disk, int fd, const Qcow2Options& options,
                 const std::function<void(std::uint64_t)>& progress) {
  if (disk.size() > kMaxDiskSize || disk.size() % kSector != 0)
    throw base::Error(base::Category::refused,
                      "qcow2: no image has " + std::to_string(disk.size()) + " bytes");
  Writer(disk, fd, options).run(progress);
}

std::unique_ptr<Disk> make_empty_disk(std::uint64_t size) {
  return std::make_unique<EmptyDisk>(size);
}

}  // namespace formats
