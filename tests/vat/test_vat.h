// A vat in a scratch directory, and ways to hurt it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "formats/base/file.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"
#include "vat/adder.h"
#include "vat/internal/vat_impl.h"
#include "vat/vat.h"

namespace tests {

/// A file of a few megabytes at most; read_file() makes room for far more.
inline std::string read_small_file(const std::string& path) {
  return base::read_file(AT_FDCWD, path, std::size_t{32} << 20);
}

class TestVat {
 public:
  explicit TestVat(base::ObjectFormat format = base::ObjectFormat::sha256, int exponent = 13) {
    vat::Vat::create(path(), format, chunker::make_parameters(exponent));
    reopen();
  }
  [[nodiscard]] std::string path() const { return dir_ / "vat"; }
  [[nodiscard]] std::string cache() const { return dir_ / "cache"; }
  [[nodiscard]] std::string pack_path(const std::string& name) const {
    return path() + "/primary/pack/" + name;
  }
  vat::Vat& operator*() { return *vat_; }
  vat::Vat* operator->() { return vat_.get(); }
  std::shared_ptr<vat::Vat> shared() { return vat_; }
  void close() { vat_.reset(); }
  void lose_index() { REQUIRE(vat_->impl().replace_index({base::Category::corrupt, "index: lost"})); }
  void reopen() {
    vat_.reset();  // the old one may hold the index
    vat_ = vat::Vat::open(path(), {cache(), [this](const std::string& text) { notes.push_back(text); }});
  }

  /// Puts one blob in a group of its own; the pack is the next finish().
  base::ObjectId put(vat::Adder& adder, base::Bytes content) {
    const auto id = base::hash_blob(vat_->object_format(), content);
    (void)adder.put(id, formats::BlobKind::data, vat::Grouping::single, content);
    return id;
  }
  /// Blobs, each in a group of its own, as one pack; its file name.
  std::string add_pack(const std::vector<base::Buffer>& blobs) {
    vat::Adder adder(*vat_, {1, formats::kDefaultLevel});
    for (const auto& blob : blobs) (void)put(adder, blob);
    const auto summary = adder.finish();
    REQUIRE(summary.packs.size() == 1);
    return summary.packs[0] + ".zst";
  }
  base::ObjectId add(base::Bytes content) {
    vat::Adder adder(*vat_, {1, formats::kDefaultLevel});
    const auto id = put(adder, content);
    (void)adder.finish();
    return id;
  }
  base::ObjectId id_of(base::Bytes content) { return base::hash_blob(vat_->object_format(), content); }

  [[nodiscard]] std::vector<std::string> packs() const {
    return base::list_directory(base::open_directory(AT_FDCWD, path() + "/primary/pack").get());
  }
  vat::internal::Place place_of(const base::ObjectId& id) {
    const auto places = vat_->impl().with_index([&](auto& index) { return index.find(id); });
    REQUIRE_FALSE(places.empty());
    return places.front();
  }
  /// Flips one bit in the middle of the group that holds `id`. The file keeps its inode and times.
  void damage(const std::string& pack, const base::ObjectId& id) {
    const auto group = place_of(id).group;
    flip(pack_path(pack), group.offset + group.size / 2);
  }

  static void flip(const std::string& file, std::uint64_t offset) {
    edit(file, [&](std::string& bytes) {
      REQUIRE(offset < bytes.size());
      bytes[offset] = static_cast<char>(bytes[offset] ^ 0x10);
    });
  }
  /// Rewrites the file in place, times kept.
  template <typename Change>
  static void edit(const std::string& file, Change&& change) {
    struct stat info;
    REQUIRE(::stat(file.c_str(), &info) == 0);
    REQUIRE(::chmod(file.c_str(), 0644) == 0);
    auto bytes = read_small_file(file);
    change(bytes);
    write_file(file, base::as_bytes(bytes));
    set_time(file, info.st_mtim);
  }
  static void set_time(const std::string& file, timespec time) {
    const timespec times[] = {time, time};
    REQUIRE(::utimensat(AT_FDCWD, file.c_str(), times, 0) == 0);
  }
  /// Long enough ago not to be taken for a file that is still arriving.
  static void make_old(const std::string& file) { set_time(file, {std::time(nullptr) - 7200, 0}); }

  std::vector<std::string> notes;

 private:
  TempDir dir_;
  std::shared_ptr<vat::Vat> vat_;  // shared: SourceSet wants it so
};

/// Whether the source gives exactly `expected`, by every way of reading.
inline bool holds(vat::BlobSource& source, const base::ObjectId& id, base::Bytes expected) {
  const auto found = source.find(id);
  base::Buffer streamed;
  source.stream(id, [&](base::Bytes bytes) { base::append(streamed, bytes); });
  const auto whole = source.read(id);
  return found && found->size == expected.size() &&
         std::equal(whole.begin(), whole.end(), expected.begin(), expected.end()) && streamed == whole;
}

}  // namespace tests
