#include "formats/compression/bounded.h"

#include <zlib.h>
#include <zstd.h>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"

namespace formats {

using base::Category;
using base::Error;

void decompress_deflate(base::Bytes input, base::MutableBytes content) {
  z_stream stream{};
  if (inflateInit2(&stream, -15) != Z_OK) throw Error(Category::local, "zlib: out of memory");
  const base::CPtr<z_stream, inflateEnd> ending(&stream);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(input.data()));
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(content.data());
  stream.avail_out = static_cast<uInt>(content.size());
  const int result = inflate(&stream, Z_FINISH);
  if (stream.avail_out != 0 || (result != Z_STREAM_END && result != Z_BUF_ERROR && result != Z_OK))
    throw Error(Category::corrupt, "deflate: damaged");
}

void decompress_zstd(base::Bytes input, base::MutableBytes content) {
  const base::CPtr<ZSTD_DCtx, ZSTD_freeDCtx> context(ZSTD_createDCtx());
  if (context == nullptr) throw Error(Category::local, "zstd: out of memory");
  ZSTD_inBuffer in{input.data(), input.size(), 0};
  ZSTD_outBuffer out{content.data(), content.size(), 0};
  while (out.pos < out.size) {
    const auto before = in.pos + out.pos;
    const auto left = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(left)) throw Error(Category::corrupt, std::string("zstd: ") + ZSTD_getErrorName(left));
    if (left == 0 || in.pos + out.pos == before) break;
  }
  if (out.pos < out.size) throw Error(Category::corrupt, "zstd: shorter than it should be");
}

}  // namespace formats
