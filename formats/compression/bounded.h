// Decompression of what other formats hold: the size of the content is known, that of the input only about.
#pragma once

#include "formats/base/bytes.h"

namespace formats {

/// Fills `content` from a raw deflate stream (RFC 1951). Bytes after it are passed over. Throws corrupt if it
/// is damaged, or is not of exactly that size.
void decompress_deflate(base::Bytes input, base::MutableBytes content);
/// The same from one zstd frame.
void decompress_zstd(base::Bytes input, base::MutableBytes content);

}  // namespace formats
