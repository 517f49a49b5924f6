#include <catch2/catch.hpp>

#include "formats/base/object_id.h"
#include "formats/compression/bounded.h"
#include "formats/compression/decoder.h"
#include "formats/compression/zstd.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

using base::as_bytes;
using base::Category;
using formats::Codec;

namespace {

base::Buffer hex(std::string_view text) {
  return base::from_hex(text).value();
}

/// A source of `bytes` that gives at most `step` of them a call.
formats::ByteSource source_of(const base::Buffer& bytes, std::size_t step = SIZE_MAX) {
  return [&bytes, step, at = std::size_t{0}](base::MutableBytes to) mutable {
    const std::size_t count = std::min({step, to.size(), bytes.size() - at});
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), count, to.begin());
    at += count;
    return count;
  };
}

std::string decode(Codec codec, const base::Buffer& bytes, std::size_t source_step = SIZE_MAX,
                   std::size_t read_step = 4096) {
  const auto decoder = formats::make_decoder(codec, source_of(bytes, source_step));
  base::Buffer buffer(read_step);
  std::string content;
  while (true) {
    const std::size_t count = decoder->read(buffer);
    content += base::as_chars(base::Bytes(buffer).subspan(0, count));
    if (count < buffer.size()) break;
  }
  CHECK(decoder->read(buffer) == 0);
  return content;
}

std::string golden_content() {
  std::string content;
  for (int i = 1; i <= 20; ++i) content += "line " + std::to_string(i) + " of the golden text\n";
  return content;
}

struct Golden {
  Codec codec;
  const char* name;
  base::Buffer text;   ///< golden_content() as the stock tool compressed it
  base::Buffer empty;  ///< nothing, as the stock tool compressed it
};

/// Made by gzip -9n, bzip2 -1, xz -0, zstd -q --check, from a pipe.
const std::vector<Golden>& goldens() {
  static const std::vector<Golden> kGoldens{
      {Codec::gzip, "gzip",
       hex("1f8b080000000000020375d0b90d80400c45c19c2a5c027fb9fbc11c92b59b38a07c44ce8b279bb8ab9b"
           "ac1d9697dbd962f76ae94f76f1494119504694096546595056940d453d132f881bc40fe208f184b8427c"
           "21ce106f94df8d177b07815013020000"),
       hex("1f8b080000000000020303000000000000000000")},
      {Codec::bzip2, "bzip2",
       hex("425a6831314159265359bad851dd0000afd980001040007fe007e58440200088124a346f5020002a2a43"
           "43401ea7a4f411b008962359ba56d7c4e8db6dbf011c021d4dd22216db6db6dabf88e44608fa47c23247"
           "32342352381182304648d48c91b91a08e247f177245385090bad851dd0"),
       hex("425a683117724538509000000000")},
      {Codec::xz, "xz",
       hex("fd377a585a000004e6d6b446020021010c0000008f98419ce0021200515d00361a4a1f08a02bb16d069d"
           "f8b2a5aca9f205c67e12b75f939c3f8e4abe1704e2b93a3e0b72873f770fc9e550649e0f752cf6d6dbc6"
           "c96ec12bcaa10d44c67dff998651d49cb9f5e7c2e7422cb8ca1b040000000000c93888b6dfd361170001"
           "6d9304000000ce02fb6eb1c467fb020000000004595a"),
       hex("fd377a585a000004e6d6b446000000001cdf44211fb6f37d010000000004595a")},
      {Codec::zstd, "zstd",
       hex("28b52ffd045835030034036c696e652031206f662074686520676f6c64656e20746578740a6c696e6520"
           "32333435363738393130313131313131313131321300f049c4da07b1367b585b1cd6be86b519c3dab2b0"
           "f629accd12d61654b320581858042c0716061601cb8185a197490608da0e5a"),
       hex("28b52ffd240001000099e9d851")},
  };
  return kGoldens;
}

base::Buffer joined(const base::Buffer& a, const base::Buffer& b) {
  auto both = a;
  base::append(both, b);
  return both;
}

}  // namespace

TEST_CASE("files made by the stock tools decompress", "[compression]") {
  for (const auto& golden : goldens()) {
    INFO(golden.name);
    CHECK(decode(golden.codec, golden.text) == golden_content());
    CHECK(decode(golden.codec, golden.empty).empty());
  }
  const auto text = golden_content();
  CHECK(decode(Codec::none, tests::to_buffer(text)) == text);
  CHECK(decode(Codec::none, {}).empty());
}

TEST_CASE("content does not depend on how input and output are cut up", "[compression]") {
  for (const auto& golden : goldens()) {
    INFO(golden.name);
    for (const std::size_t source_step : {1U, 2U, 7U})
      for (const std::size_t read_step : {1U, 3U, 531U, 532U})
        CHECK(decode(golden.codec, joined(golden.text, golden.text), source_step, read_step) ==
              golden_content() + golden_content());
  }
  CHECK(decode(Codec::none, tests::to_buffer("abc"), 1, 2) == "abc");
}

TEST_CASE("concatenated members are one stream", "[compression]") {
  for (const auto& golden : goldens()) {
    INFO(golden.name);
    CHECK(decode(golden.codec, joined(golden.text, golden.text)) == golden_content() + golden_content());
    CHECK(decode(golden.codec, joined(golden.empty, golden.text)) == golden_content());
    CHECK(decode(golden.codec, joined(golden.text, golden.empty)) == golden_content());
  }
}

TEST_CASE("a compressed file cut off anywhere is corrupt", "[compression]") {
  for (const auto& golden : goldens()) {
    INFO(golden.name);
    for (const auto* whole : {&golden.text, &golden.empty})
      tests::for_each_truncation(*whole, [&](const base::Buffer& bytes) {
        INFO("length " << bytes.size());
        CHECK(tests::category_of([&] { (void)decode(golden.codec, bytes); }) == Category::corrupt);
        if (!bytes.empty())  // a second member that is cut off
          CHECK(tests::category_of([&] { (void)decode(golden.codec, joined(golden.text, bytes)); }) ==
                Category::corrupt);
      });
  }
}

TEST_CASE("what follows the last member and is none is corrupt", "[compression]") {
  for (const auto& golden : goldens())
    for (const auto* garbage : {"x", "garbage after the end", "\x1f", "BZ"}) {
      INFO(golden.name << " then " << garbage);
      CHECK(tests::category_of([&] {
              (void)decode(golden.codec, joined(golden.text, tests::to_buffer(garbage)));
            }) == Category::corrupt);
    }
}

TEST_CASE("a flipped bit of a compressed file is noticed or harmless", "[compression]") {
  for (const auto& golden : goldens()) {
    INFO(golden.name);
    std::size_t harmless = 0, flips = 0;
    tests::for_each_flip(golden.text, [&](const base::Buffer& bytes) {
      ++flips;
      std::string content;
      if (!tests::accepts([&] { content = decode(golden.codec, bytes); })) return;
      CHECK(content == golden_content());
      ++harmless;  // gzip: time, system; zstd: the window size
    });
    CHECK(harmless * 10 < flips);
  }
}

TEST_CASE("input in another format is corrupt", "[compression]") {
  for (const auto& golden : goldens())
    for (const auto& other : goldens())
      if (other.codec != golden.codec)
        CHECK(tests::category_of([&] { (void)decode(golden.codec, other.text); }) == Category::corrupt);
}

TEST_CASE("an xz dictionary or a zstd window that needs too much memory is not allocated", "[compression]") {
  // The block header of `xz -0` with its dictionary raised to 1.5 GiB (property 0x25), CRC32 corrected.
  auto xz = goldens()[2].text;
  xz[16] = std::byte{0x25};
  const auto crc = hex("3b787b41");
  std::copy(crc.begin(), crc.end(), xz.begin() + 20);
  CHECK(tests::category_of([&] { (void)decode(Codec::xz, xz); }) == Category::refused);
  auto zstd = goldens()[3].text;
  zstd[5] = std::byte{0xa0};  // window descriptor: 1 GiB
  CHECK(tests::message_of([&] { (void)decode(Codec::zstd, zstd); }) ==
        "zstd: needs a window of more than 128 MiB to decompress");
}

TEST_CASE("suffixes name codecs and nothing else does", "[compression]") {
  for (const auto codec : {Codec::none, Codec::gzip, Codec::bzip2, Codec::xz, Codec::zstd})
    CHECK(formats::find_codec(formats::suffix_of(codec)) == codec);
  for (const auto* bad : {".", ".GZ", "gz", ".zstd", ".gz ", ".lz"}) CHECK_FALSE(formats::find_codec(bad));
}

TEST_CASE("frames come back and the stock decoder reads them", "[compression]") {
  formats::ZstdCompressor compressor;
  formats::ZstdDecompressor decompressor;
  for (const std::size_t size : {0U, 1U, 1000U, 300000U}) {
    const auto content = tests::random_bytes(size, size);
    base::Buffer frame = tests::to_buffer("kept");
    const std::size_t frame_size = compressor.compress(content, frame);
    REQUIRE(frame.size() == 4 + frame_size);
    frame.erase(frame.begin(), frame.begin() + 4);
    CHECK(decompressor.decompress(frame, size) == content);
    CHECK(decode(Codec::zstd, frame) == base::as_chars(content));
    base::Buffer again;
    (void)formats::ZstdCompressor().compress(content, again);
    CHECK(again == frame);
  }
}

TEST_CASE("a frame is one frame of exactly the size declared", "[compression]") {
  const auto content = golden_content();
  base::Buffer frame;
  formats::ZstdCompressor compressor;
  formats::ZstdDecompressor decompressor;
  (void)compressor.compress(as_bytes(content), frame);
  const auto damage = [&](const base::Buffer& bytes, std::size_t size) {
    return tests::category_of([&] { (void)decompressor.decompress(bytes, size); });
  };
  CHECK(damage(frame, content.size() - 1) == Category::corrupt);
  CHECK(damage(frame, content.size() + 1) == Category::corrupt);
  CHECK(damage(frame, 0) == Category::corrupt);
  CHECK(damage(joined(frame, frame), content.size()) == Category::corrupt);
  CHECK(damage(joined(frame, frame), 2 * content.size()) == Category::corrupt);
  CHECK(damage(joined(frame, {std::byte{0}}), content.size()) == Category::corrupt);
  CHECK(damage(goldens()[3].text, content.size()) == Category::corrupt);  // a frame without its size
  tests::for_each_truncation(
      frame, [&](const base::Buffer& bytes) { CHECK(damage(bytes, content.size()) == Category::corrupt); });
  tests::for_each_flip(frame, [&](const base::Buffer& bytes) {
    base::Buffer got;
    if (tests::accepts([&] { got = decompressor.decompress(bytes, content.size()); }))
      CHECK(base::as_chars(got) == content);
  });
  CHECK(base::as_chars(decompressor.decompress(frame, content.size())) == content);  // usable after errors
  CHECK(tests::message_of([&] { (void)decompressor.decompress(joined(frame, frame), content.size()); }) ==
        "zstd: bytes after the frame");
}

TEST_CASE("of a cluster's bytes as many are taken as it has", "[compression]") {
  const auto content = golden_content();
  base::Buffer frame, got(content.size());
  (void)formats::ZstdCompressor().compress(as_bytes(content), frame);
  formats::decompress_zstd(frame, got);
  CHECK(base::as_chars(got) == content);
  const auto message = [&](base::Bytes bytes, std::size_t size) {
    base::Buffer room(size);
    return tests::message_of([&] { formats::decompress_zstd(bytes, room); });
  };
  CHECK(message(frame, content.size() + 1) == "zstd: shorter than it should be");
  CHECK(message(base::Bytes(frame).first(frame.size() / 2), content.size()) ==
        "zstd: shorter than it should be");
  CHECK(message(as_bytes("no frame at all"), 1) == "zstd: Unknown frame descriptor");
}
