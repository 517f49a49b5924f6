// Sections in this order, each of whole blocks: records, filter, fences, extra, end. The filter is a Bloom
// filter whose bits for one key lie in one cell (F. Putze, P. Sanders, J. Singler: Cache-, hash- and
// space-efficient Bloom filters, 2007).
#include "formats/table/table.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "formats/base/endian.h"
#include "formats/base/error.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kPayload = kTableBlock - 8;
constexpr std::size_t kCell = 32;      ///< bytes of a filter's cell
constexpr std::size_t kCellKeys = 25;  ///< keys a cell is made for: ten bits each
constexpr int kBits = 6;               ///< that a key sets in its cell
constexpr std::array<char, 8> kMagic = {'v', 'a', 't', 't', 'a', 'b', 'l', 'e'};
constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kMaxBlocks = std::uint64_t{1} << 40;
constexpr std::uint64_t kMaxExtra = std::uint64_t{64} << 20;

std::uint64_t guard_of(const std::byte* block, std::uint64_t number) {
  return XXH3_64bits_withSeed(block, kPayload, number);
}

std::uint64_t blocks_for(std::uint64_t items, std::size_t item_size) {
  const std::uint64_t per_block = kPayload / item_size;
  return (items + per_block - 1) / per_block;
}

/// Where in a filter of `cells` cells a key lies: its cell, and the bits within.
struct FilterPlace {
  std::uint64_t cell;
  std::uint64_t bits;
  FilterPlace(base::Bytes key, std::uint64_t cells) {
    const auto hash = XXH3_128bits(key.data(), key.size());
    cell = hash.high64 % cells;
    bits = hash.low64;
  }
  template <typename Visit>
  void for_each_bit(Visit&& visit) const {
    for (int i = 0; i < kBits; ++i) visit(static_cast<std::size_t>(bits >> (8 * i) & 0xff));
  }
};

[[noreturn]] void fail(const char* why) {
  throw Error(Category::corrupt, std::string("table: ") + why);
}

}  // namespace

TableWriter::TableWriter(const TableShape& shape, std::uint64_t expected, base::ByteSink sink)
    : shape_(shape),
      sink_(std::move(sink)),
      filter_(static_cast<std::size_t>((expected + kCellKeys) / kCellKeys) * kCell) {
  block_.reserve(kTableBlock);
}

void TableWriter::add(base::Bytes record) {
  const auto key = record.subspan(0, shape_.key_size);
  if (block_.empty()) base::append(fences_, key);
  base::append(block_, record);
  const FilterPlace place(key, filter_.size() / kCell);
  place.for_each_bit([&](std::size_t bit) {
    filter_[static_cast<std::size_t>(place.cell) * kCell + bit / 8] |= static_cast<std::byte>(1U << bit % 8);
  });
  ++count_;
  if (block_.size() + shape_.record_size > kPayload) end_block();
}

void TableWriter::end_block() {
  block_.resize(kPayload);
  base::append_le(block_, guard_of(block_.data(), block_count_++));
  sink_(block_);
  block_.clear();
}

void TableWriter::write_section(base::Bytes items, std::size_t item_size) {
  const std::size_t fill = kPayload / item_size * item_size;
  while (!items.empty()) {
    const auto part = items.subspan(0, std::min(fill, items.size()));
    base::append(block_, part);
    end_block();
    items = items.subspan(part.size());
  }
}

void TableWriter::finish(base::Bytes extra) {
  if (!block_.empty()) end_block();
  write_section(filter_, kCell);
  write_section(fences_, shape_.key_size);
  write_section(extra, 1);
  base::append(block_, std::as_bytes(std::span(kMagic)));
  base::append_le(block_, kVersion);
  base::append(block_, std::as_bytes(std::span(shape_.kind)));
  base::append_le(block_, static_cast<std::uint32_t>(shape_.key_size));
  base::append_le(block_, static_cast<std::uint32_t>(shape_.record_size));
  base::append_le(block_, count_);
  base::append_le(block_, static_cast<std::uint64_t>(filter_.size() / kCell));
  base::append_le(block_, static_cast<std::uint64_t>(extra.size()));
  end_block();
}

Table::Table(const TableShape& shape, base::ReadAt read, std::uint64_t size, TableBlocks& blocks)
    : shape_(shape), read_(std::move(read)), blocks_(blocks), number_(blocks.next_table()) {
  total_blocks_ = size / kTableBlock;
  if (size % kTableBlock != 0 || total_blocks_ == 0 || total_blocks_ > kMaxBlocks) fail("impossible size");
  TableBlocks::Block end;
  read_block(total_blocks_ - 1, end);
  const auto* at = end.data();
  const auto take = [&]<typename T>(T) {
    const auto value = base::load_le<T>(at);
    at += sizeof(T);
    return value;
  };
  const auto is_next = [&](const std::array<char, 8>& text) {
    const bool same = std::memcmp(at, text.data(), text.size()) == 0;
    at += text.size();
    return same;
  };
  if (!is_next(kMagic) || take(std::uint32_t{}) != kVersion || !is_next(shape.kind) ||
      take(std::uint32_t{}) != shape.key_size || take(std::uint32_t{}) != shape.record_size)
    fail("of another kind or version");
  count_ = take(std::uint64_t{});
  filter_cells_ = take(std::uint64_t{});
  const auto extra_size = take(std::uint64_t{});
  const auto limit = size;  // no section has more items than the file has bytes
  if (count_ > limit || filter_cells_ > limit || extra_size > std::min(limit, kMaxExtra) ||
      filter_cells_ == 0)
    fail("impossible counts");
  per_block_ = kPayload / shape.record_size;
  record_blocks_ = blocks_for(count_, shape.record_size);
  const auto fences_at = record_blocks_ + blocks_for(filter_cells_, kCell);
  const auto extra_at = fences_at + blocks_for(record_blocks_, shape.key_size);
  if (extra_at + blocks_for(extra_size, 1) + 1 != total_blocks_) fail("sections do not fill the file");
  fences_ = read_section(fences_at, record_blocks_, shape.key_size);
  extra_ = read_section(extra_at, extra_size, 1);
  make_fan();
}

/// The first bits of a key, as a number.
std::uint64_t Table::fan_of(const std::byte* key) const noexcept {
  std::uint64_t first = 0;
  std::memcpy(&first, key, std::min(sizeof first, shape_.key_size));
  return fan_bits_ == 0 ? 0 : __builtin_bswap64(first) >> (64 - fan_bits_);
}

/// About as many steps as there are fences, so that keys that are hashes are found with a step or two of
/// bisection.
void Table::make_fan() {
  fan_bits_ = std::min(16, static_cast<int>(std::bit_width(record_blocks_)));
  fan_.resize((std::size_t{1} << fan_bits_) + 1);
  for (std::uint64_t i = 0; i < record_blocks_; ++i) ++fan_[fan_of(fences_.data() + i * shape_.key_size) + 1];
  std::partial_sum(fan_.begin(), fan_.end(), fan_.begin());
}

void Table::read_block(std::uint64_t number, TableBlocks::Block& block) const {
  if (!read_(number * kTableBlock, block)) fail("cut off");
  if (base::load_le<std::uint64_t>(block.data() + kPayload) != guard_of(block.data(), number))
    fail("damaged block");
}

base::Buffer Table::read_section(std::uint64_t first, std::uint64_t items, std::size_t item_size) const {
  base::Buffer section;
  const std::size_t fill = kPayload / item_size * item_size;
  TableBlocks::Block block;
  for (std::uint64_t rest = items * item_size; rest > 0; ++first) {
    read_block(first, block);
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(fill, rest));
    base::append(section, base::Bytes(block).subspan(0, part));
    rest -= part;
  }
  return section;
}

const std::byte* Table::block(std::uint64_t number) {
  auto& slot = blocks_.slot(number_, number);
  if (slot.table != number_ || slot.number != number) {
    slot.table = 0;
    if (slot.block == nullptr) slot.block = std::make_unique<TableBlocks::Block>();
    read_block(number, *slot.block);
    slot.table = number_;
    slot.number = number;
  }
  return slot.block->data();
}

base::Bytes Table::record(std::uint64_t position) {
  return {block(position / per_block_) + position % per_block_ * shape_.record_size, shape_.record_size};
}

bool Table::same_key(base::Bytes record, base::Bytes key) const noexcept {
  return std::memcmp(record.data(), key.data(), shape_.key_size) == 0;
}

bool Table::may_hold(base::Bytes key) {
  if (filter_.empty()) filter_ = read_section(record_blocks_, filter_cells_, kCell);
  const FilterPlace place(key, filter_cells_);
  const auto* cell = filter_.data() + place.cell * kCell;
  bool all = true;
  place.for_each_bit(
      [&](std::size_t bit) { all &= (std::to_integer<unsigned>(cell[bit / 8]) >> bit % 8 & 1) != 0; });
  return all;
}

std::uint64_t Table::lower_bound(base::Bytes key) {
  const auto first_below = [&](std::uint64_t begin, std::uint64_t end, const auto& key_at) {
    while (begin < end) {
      const std::uint64_t middle = begin + (end - begin) / 2;
      if (std::memcmp(key_at(middle), key.data(), shape_.key_size) < 0)
        begin = middle + 1;
      else
        end = middle;
    }
    return begin;
  };
  // The blocks whose first key is below the key are those in which it, or its first copy, may begin.
  const auto fan = fan_of(key.data());
  const auto block_number = first_below(
      fan_[fan], fan_[fan + 1], [&](std::uint64_t i) { return fences_.data() + i * shape_.key_size; });
  if (block_number == 0) return 0;
  const auto begin = (block_number - 1) * per_block_;
  return first_below(begin, std::min(begin + per_block_, count_),
                     [&](std::uint64_t i) { return record(i).data(); });
}

}  // namespace formats
