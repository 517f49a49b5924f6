#include "formats/compression/decoder.h"

#include <bzlib.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <array>
#include <string>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr std::pair<std::string_view, Codec> kSuffixes[] = {{"", Codec::none},
                                                            {".gz", Codec::gzip},
                                                            {".bz2", Codec::bzip2},
                                                            {".xz", Codec::xz},
                                                            {".zst", Codec::zstd}};

constexpr std::uint64_t kXzMemory = std::uint64_t{100} << 20;
constexpr int kZstdWindowLog = 27;

/// What all codecs share: a buffer of input and the loop around one step of decompression.
class BufferedDecoder : public Decoder {
 public:
  explicit BufferedDecoder(ByteSource source) : source_(std::move(source)), input_(std::size_t{128} << 10) {}

  std::size_t read(base::MutableBytes buffer) final {
    std::size_t filled = 0;
    while (filled < buffer.size() && !finished_) {
      if (rest_.empty() && !at_end_) {
        rest_ = {input_.data(), source_(input_)};
        at_end_ = rest_.empty();
      }
      filled += step(buffer.subspan(filled));
    }
    return filled;
  }

 protected:
  /// Takes from rest_, writes to `to`, returns how much it wrote. Sets finished_ at the end of the last
  /// member.
  virtual std::size_t step(base::MutableBytes to) = 0;

  [[noreturn]] static void damaged(const char* codec, const std::string& what) {
    throw Error(Category::corrupt, std::string(codec) + ": " + what);
  }

  base::Bytes rest_;     ///< input not yet consumed
  bool at_end_ = false;  ///< the source has no more
  bool finished_ = false;

  /// Between two members: whether another one begins. Tapes and programs that write blocks fill up with NULs,
  /// up to the end.
  bool skip_padding(const char* kind) {
    const auto data =
        std::find_if(rest_.begin(), rest_.end(), [](std::byte byte) { return byte != std::byte{0}; });
    is_padded_ = is_padded_ || data != rest_.begin();
    rest_ = rest_.subspan(static_cast<std::size_t>(data - rest_.begin()));
    if (rest_.empty()) finished_ = at_end_;
    if (!rest_.empty() && is_padded_) damaged(kind, "something follows the padding at its end");
    return !rest_.empty();
  }

 private:
  ByteSource source_;
  base::Buffer input_;
  bool is_padded_ = false;
};

class Plain final : public BufferedDecoder {
 public:
  using BufferedDecoder::BufferedDecoder;

 private:
  std::size_t step(base::MutableBytes to) override {
    const std::size_t count = std::min(to.size(), rest_.size());
    std::copy_n(rest_.begin(), count, to.begin());
    rest_ = rest_.subspan(count);
    finished_ = at_end_;
    return count;
  }
};

class Gzip final : public BufferedDecoder {
 public:
  explicit Gzip(ByteSource source) : BufferedDecoder(std::move(source)) {
    if (::inflateInit2(&stream_, 15 + 16) != Z_OK) throw Error(Category::local, "gzip: out of memory");
  }
  ~Gzip() override { (void)::inflateEnd(&stream_); }

 private:
  std::size_t step(base::MutableBytes to) override {
    if (between_members_) {
      if (!skip_padding("gzip")) return 0;
      (void)::inflateReset(&stream_);  // fails for a stream that was never begun
      between_members_ = false;
    }
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(rest_.data()));
    stream_.avail_in = static_cast<uInt>(rest_.size());
    stream_.next_out = reinterpret_cast<Bytef*>(to.data());
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(to.size(), 1U << 30));
    const uInt room = stream_.avail_out;
    const int code = ::inflate(&stream_, Z_NO_FLUSH);
    rest_ = rest_.subspan(rest_.size() - stream_.avail_in);
    if (code == Z_STREAM_END)
      between_members_ = true;
    else if (code == Z_BUF_ERROR && at_end_)
      damaged("gzip", "unexpected end");
    else if (code != Z_OK && code != Z_BUF_ERROR)
      damaged("gzip", stream_.msg != nullptr ? stream_.msg : "bad data");
    return room - stream_.avail_out;
  }

  z_stream stream_{};
  bool between_members_ = false;
};

class Bzip2 final : public BufferedDecoder {
 public:
  explicit Bzip2(ByteSource source) : BufferedDecoder(std::move(source)) { start(); }
  ~Bzip2() override { (void)::BZ2_bzDecompressEnd(&stream_); }

 private:
  void start() {
    stream_ = {};
    if (::BZ2_bzDecompressInit(&stream_, 0, 0) != BZ_OK) throw Error(Category::local, "bzip2: out of memory");
  }

  std::size_t step(base::MutableBytes to) override {
    if (between_members_) {
      if (!skip_padding("bzip2")) return 0;
      (void)::BZ2_bzDecompressEnd(&stream_);
      start();
      between_members_ = false;
    }
    stream_.next_in = reinterpret_cast<char*>(const_cast<std::byte*>(rest_.data()));
    stream_.avail_in = static_cast<unsigned>(rest_.size());
    stream_.next_out = reinterpret_cast<char*>(to.data());
    stream_.avail_out = static_cast<unsigned>(std::min<std::size_t>(to.size(), 1U << 30));
    const unsigned room = stream_.avail_out;
    const bool starved = at_end_ && rest_.empty();
    const int code = ::BZ2_bzDecompress(&stream_);
    rest_ = rest_.subspan(rest_.size() - stream_.avail_in);
    const std::size_t written = room - stream_.avail_out;
    if (code == BZ_STREAM_END)
      between_members_ = true;
    else if (code != BZ_OK)
      damaged("bzip2", "bad data");
    else if (starved && written == 0)
      damaged("bzip2", "unexpected end");
    return written;
  }

  bz_stream stream_{};
  bool between_members_ = false;
};

class Xz final : public BufferedDecoder {
 public:
  explicit Xz(ByteSource source) : BufferedDecoder(std::move(source)) {
    if (::lzma_stream_decoder(&stream_, kXzMemory, LZMA_CONCATENATED) != LZMA_OK)
      throw Error(Category::local, "xz: out of memory");
  }
  ~Xz() override { ::lzma_end(&stream_); }

 private:
  std::size_t step(base::MutableBytes to) override {
    stream_.next_in = reinterpret_cast<const std::uint8_t*>(rest_.data());
    stream_.avail_in = rest_.size();
    stream_.next_out = reinterpret_cast<std::uint8_t*>(to.data());
    stream_.avail_out = to.size();
    const auto code = ::lzma_code(&stream_, at_end_ ? LZMA_FINISH : LZMA_RUN);
    rest_ = rest_.subspan(rest_.size() - stream_.avail_in);
    if (code == LZMA_STREAM_END)
      finished_ = true;
    else if (code == LZMA_MEMLIMIT_ERROR)
      throw Error(Category::refused, "xz: needs more than 100 MiB to decompress");
    else if (code == LZMA_BUF_ERROR && at_end_)
      damaged("xz", "unexpected end");
    else if (code != LZMA_OK && code != LZMA_BUF_ERROR)
      damaged("xz", "bad data");
    return to.size() - stream_.avail_out;
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
};

class Zstd final : public BufferedDecoder {
 public:
  explicit Zstd(ByteSource source) : BufferedDecoder(std::move(source)), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw Error(Category::local, "zstd: out of memory");
    (void)ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, kZstdWindowLog);
  }

 private:
  std::size_t step(base::MutableBytes to) override {
    if (rest_.empty() && at_end_ && in_frame_ == 0) {
      finished_ = true;
      return 0;
    }
    ZSTD_inBuffer in{rest_.data(), rest_.size(), 0};
    ZSTD_outBuffer out{to.data(), to.size(), 0};
    const std::size_t code = ZSTD_decompressStream(stream_.get(), &out, &in);
    if (ZSTD_isError(code) && ZSTD_getErrorCode(code) == ZSTD_error_frameParameter_windowTooLarge)
      throw Error(Category::refused, "zstd: needs a window of more than 128 MiB to decompress");
    if (ZSTD_isError(code)) damaged("zstd", ZSTD_getErrorName(code));
    if (rest_.empty() && at_end_ && out.pos == 0) damaged("zstd", "unexpected end");
    rest_ = rest_.subspan(in.pos);
    in_frame_ = code;
    return out.pos;
  }

  base::CPtr<ZSTD_DStream, ZSTD_freeDStream> stream_;
  std::size_t in_frame_ = 1;  ///< 0 between frames; there is at least one
};

}  // namespace

std::optional<Codec> find_codec(std::string_view suffix) noexcept {
  for (const auto& [name, codec] : kSuffixes)
    if (name == suffix) return codec;
  return std::nullopt;
}

std::string_view suffix_of(Codec codec) noexcept {
  for (const auto& [name, known] : kSuffixes)
    if (known == codec) return name;
  return {};
}

std::unique_ptr<Decoder> make_decoder(Codec codec, ByteSource source) {
  switch (codec) {
    case Codec::none:
      return std::make_unique<Plain>(std::move(source));
    case Codec::gzip:
      return std::make_unique<Gzip>(std::move(source));
    case Codec::bzip2:
      return std::make_unique<Bzip2>(std::move(source));
    case Codec::xz:
      return std::make_unique<Xz>(std::move(source));
    case Codec::zstd:
      return std::make_unique<Zstd>(std::move(source));
  }
  throw Error(Category::internal, "unknown codec");
}

}  // namespace formats
