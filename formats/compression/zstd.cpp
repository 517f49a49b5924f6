#include "formats/compression/zstd.h"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <string>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

void check(std::size_t code, Category category) {
  if (ZSTD_isError(code)) throw Error(category, std::string("zstd: ") + ZSTD_getErrorName(code));
}

}  // namespace

struct ZstdCompressor::State {
  base::CPtr<ZSTD_CCtx, ZSTD_freeCCtx> context;
};
ZstdCompressor::ZstdCompressor(int level)
    : state_(new State{base::CPtr<ZSTD_CCtx, ZSTD_freeCCtx>(ZSTD_createCCtx())}) {
  if (state_->context == nullptr) throw Error(Category::local, "zstd: out of memory");
  check(ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_compressionLevel, level), Category::usage);
  check(ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_checksumFlag, 1), Category::internal);
}
ZstdCompressor::~ZstdCompressor() = default;
ZstdCompressor::ZstdCompressor(ZstdCompressor&&) noexcept = default;
ZstdCompressor& ZstdCompressor::operator=(ZstdCompressor&&) noexcept = default;

ZstdCompressor::ZstdCompressor(int level, std::size_t reach) : ZstdCompressor(level) {
  const int window = std::clamp(static_cast<int>(std::bit_width(reach)), 20, 25);
  check(ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_windowLog, window), Category::internal);
  // The tables of a level are made for the content alone: what lies far back in the prefix is found by this.
  check(ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_enableLongDistanceMatching, 1), Category::internal);
}

void ZstdCompressor::use_prefix(base::Bytes prefix) {
  check(ZSTD_CCtx_refPrefix(state_->context.get(), prefix.data(), prefix.size()), Category::local);
}

std::size_t ZstdCompressor::compress(base::Bytes content, base::Buffer& to) {
  const std::size_t before = to.size();
  to.resize(before + ZSTD_compressBound(content.size()));
  const std::size_t size = ZSTD_compress2(state_->context.get(), to.data() + before, to.size() - before,
                                          content.data(), content.size());
  check(size, Category::local);
  to.resize(before + size);
  return size;
}

struct ZstdDecompressor::State {
  base::CPtr<ZSTD_DCtx, ZSTD_freeDCtx> context;
};
ZstdDecompressor::ZstdDecompressor()
    : state_(new State{base::CPtr<ZSTD_DCtx, ZSTD_freeDCtx>(ZSTD_createDCtx())}) {
  if (state_->context == nullptr) throw Error(Category::local, "zstd: out of memory");
}
ZstdDecompressor::~ZstdDecompressor() = default;
ZstdDecompressor::ZstdDecompressor(ZstdDecompressor&&) noexcept = default;
ZstdDecompressor& ZstdDecompressor::operator=(ZstdDecompressor&&) noexcept = default;

void ZstdDecompressor::use_prefix(base::Bytes prefix) {
  check(ZSTD_DCtx_refPrefix(state_->context.get(), prefix.data(), prefix.size()), Category::local);
}

base::Buffer ZstdDecompressor::decompress(base::Bytes frame, std::size_t size) {
  const std::size_t frame_size = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  check(frame_size, Category::corrupt);
  if (frame_size != frame.size()) throw Error(Category::corrupt, "zstd: bytes after the frame");
  if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != size)
    throw Error(Category::corrupt, "zstd: frame is not of the size declared");
  base::Buffer content(size);
  check(
      ZSTD_decompressDCtx(state_->context.get(), content.data(), content.size(), frame.data(), frame.size()),
      Category::corrupt);  // also where it holds another size than it declares
  return content;
}

}  // namespace formats
