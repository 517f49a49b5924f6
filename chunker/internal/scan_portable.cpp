// Eight positions a step, one in each byte of a 64-bit word, for machines without the vectors that have files
// of their own. The prefilter hash is linear, so it is built by doubling the window four times:
//   h2(i) = b(i) ^ x·b(i-1), h4(i) = h2(i) ^ x²·h2(i-2), h8(i) = h4(i) ^ x⁴·h4(i-4)
//   H(i) = h8(i) ^ x⁸·h8(i-8)
#include <bit>

#include "chunker/internal/scan.h"
#include "formats/base/endian.h"

namespace chunker::internal {
namespace {

using Word = std::uint64_t;
constexpr std::size_t kStep = sizeof(Word);

constexpr Word all(std::uint8_t byte) noexcept {
  return byte * Word{0x0101010101010101};
}

/// `current` moved up by Count positions, filled from the end of `previous`.
template <int Count>
constexpr Word shifted(Word previous, Word current) noexcept {
  return current << (8 * Count) | previous >> (64 - 8 * Count);
}

/// Each byte times x^Power, Power ≤ 4: what is shifted out comes back times x^8 = x^4 + x^3 + x + 1.
template <int Power>
constexpr Word times_x(Word v) noexcept {
  const Word out = v >> (8 - Power) & all((1 << Power) - 1);
  const Word twice = out ^ out << 1;
  return (v & all(0xFF >> Power)) << Power ^ twice ^ twice << 3;
}

struct Words {
  Word bytes, h2, h4, h8, hash;
};

/// Words for the eight positions from `at`, given those for the eight before.
inline Words extend(const Words& before, const std::byte* at) noexcept {
  Words w;
  w.bytes = base::load_le<Word>(at);
  w.h2 = w.bytes ^ times_x<1>(shifted<1>(before.bytes, w.bytes));
  w.h4 = w.h2 ^ times_x<2>(shifted<2>(before.h2, w.h2));
  w.h8 = w.h4 ^ times_x<4>(shifted<4>(before.h4, w.h4));
  w.hash = w.h8 ^ times_x<4>(times_x<4>(before.h8));
  return w;
}

/// The top bit of each byte that is a candidate, given the hashes of the positions 16 earlier.
Word candidates(Word hash, Word earlier) noexcept {
  const Word wrong = (hash ^ all(kCandidateHash)) | (earlier & all(kCandidateMask));
  return ~(((wrong & all(0x7F)) + all(0x7F)) | wrong |
           all(0x7F));  // the bytes that are 0; no carry leaves one
}

}  // namespace

std::size_t find_cut_portable(const Parameters& parameters, base::Bytes rest) noexcept {
  if (rest.size() <= parameters.min_size) return rest.size();
  const auto range = scan_range(parameters, rest.size());
  const std::byte* data = rest.data();

  // The window before the first wanted position fills the history; what it finds is not looked at.
  Words before{}, before_that{};
  for (std::size_t i = range.first - kWindowSize; i < range.first; i += kStep) {
    before_that = before;
    before = extend(before, data + i);
  }
  std::size_t i = range.first;
  for (; i + kStep <= range.end; i += kStep) {
    const Words now = extend(before, data + i);
    for (Word hits = candidates(now.hash, before_that.hash); hits != 0; hits &= hits - 1) {
      const std::size_t position = i + static_cast<std::size_t>(std::countr_zero(hits)) / 8;
      if (is_cut(parameters, data, position, range.normal)) return position + 1;
    }
    before_that = before;
    before = now;
  }
  for (; i < range.end; ++i)
    if (is_candidate(data + i) && is_cut(parameters, data, i, range.normal)) return i + 1;
  return range.end;
}

}  // namespace chunker::internal
