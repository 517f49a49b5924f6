// A tree of each thing, and a vat to put it into.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "tests/support/temp_dir.h"
#include "vat/adder.h"
#include "vat/vat.h"
#include "wedge/scanner.h"

namespace tests {

inline void put_file(const std::string& path, std::string_view content) {
  base::make_directories(path.substr(0, path.rfind('/')));
  write_file(path, base::as_bytes(content));
}

inline base::UniqueFd open_dir(const std::string& path) {
  return base::open_directory(AT_FDCWD, path);
}

inline std::vector<formats::Row> rows_of(const std::string& path, const wedge::ScanOptions& options = {}) {
  std::vector<formats::Row> rows;
  (void)wedge::scan_tree(open_dir(path).get(), base::ObjectFormat::sha256, nullptr, options,
                         [&](const wedge::ScannedRow& scanned) { rows.push_back(scanned.row); });
  return rows;
}

struct Store {
  Store() {
    vat::Vat::create(dir / "vat", base::ObjectFormat::sha256, chunker::make_parameters(13));
    store = vat::Vat::open(dir / "vat");
  }
  wedge::TreeIds add(const std::string& path) {
    vat::Adder adder(*store);
    wedge::ScanOptions options;
    options.parameters = store->parameters();
    auto ids = wedge::add_tree(open_dir(path).get(), base::ObjectFormat::sha256, adder, options);
    (void)adder.finish();
    return ids;
  }
  base::ObjectId put(std::string_view text, formats::BlobKind kind = formats::BlobKind::data) {
    vat::Adder adder(*store);
    const auto id = base::hash_blob(base::ObjectFormat::sha256, base::as_bytes(text));
    (void)adder.put(id, kind, vat::Grouping::single, base::as_bytes(text));
    (void)adder.finish();
    return id;
  }
  TempDir dir;
  std::unique_ptr<vat::Vat> store;
};

/// One of each thing a tree of an ordinary user holds.
inline void make_tree(const std::string& top) {
  put_file(top + "/empty", "");
  put_file(top + "/dir/file", "hello\n");
  put_file(top + "/dir/tool", "#!/bin/sh\n");
  put_file(top + "/dir/sub/deep", std::string(50000, 'x') + "y");
  const auto large = random_bytes(300000, 4);
  write_file(top + "/large", large);
  base::make_directories(top + "/hollow");
  REQUIRE(::chmod((top + "/dir/tool").c_str(), 0755) == 0);
  REQUIRE(::chmod((top + "/dir/file").c_str(), 0400) == 0);
  REQUIRE(::symlink("../nowhere/at all", (top + "/dir/link").c_str()) == 0);
  REQUIRE(::link((top + "/dir/file").c_str(), (top + "/again").c_str()) == 0);
  REQUIRE(::link((top + "/dir/file").c_str(), (top + "/hollow/third").c_str()) == 0);
  REQUIRE(::mkfifo((top + "/pipe").c_str(), 0600) == 0);
  (void)::setxattr((top + "/large").c_str(), "user.colour", "r\0d", 3, 0);
  (void)::setxattr((top + "/dir").c_str(), "user.empty", "", 0, 0);
  REQUIRE(::chmod((top + "/hollow").c_str(), 01750) == 0);
  const auto set_time = [&](const std::string& path, time_t seconds, long nanoseconds) {
    const timespec times[] = {{seconds, nanoseconds}, {seconds, nanoseconds}};
    REQUIRE(::utimensat(AT_FDCWD, (top + "/" + path).c_str(), times, AT_SYMLINK_NOFOLLOW) == 0);
  };
  set_time("large", 1, 999999999);
  set_time("empty", -5, 7);
  set_time("dir/link", 1234567890, 5);
  set_time("hollow", 1000000000, 0);
  set_time("dir/sub", 1000000001, 1);
  set_time("dir", 1000000002, 2);
}

}  // namespace tests
