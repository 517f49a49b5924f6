// Whether a tree on disk is what rows say it is.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/base/object_id.h"
#include "formats/base/scratch.h"
#include "formats/text/manifest.h"
#include "wedge/tree_writer.h"

namespace wedge {

struct Difference {
  enum class Kind : std::uint8_t { missing, extra, type, content, metadata };
  Kind kind;
  std::string path;
  std::string detail;  ///< for people: which metadata
};

[[nodiscard]] std::string_view to_string(Difference::Kind kind) noexcept;

struct CompareOptions {
  unsigned threads = 0;
  bool read_content = true;    ///< false: size and time stand for content
  StatCache* cache = nullptr;  ///< content it knows is not read …
  SpotCheck spot_check;        ///< … but for these; SpotCheck(100, 0) reads all
  Fidelity fidelity;
  std::uint64_t allow_holes = 0;  ///< of archives; see max_archive_holes()
  /// verify_entry(): for what an archive unpacks to; none: /tmp.
  std::vector<base::ScratchPlace> scratch;
  std::function<void(std::uint64_t)> progress;
  /// verify_entry(): told how many paths are as the file system kept them when sync made them, which is no
  /// difference. May be empty.
  std::function<void(std::uint64_t)> on_kept;
};

/// Yields rows in manifest order; false at the end.
using NextRow = std::function<bool(formats::Row&)>;

/// Compares what lies below `top` with the rows, in order, and reports each difference. What lies in an extra
/// directory is reported path by path. Returns how many there were.
std::uint64_t compare_tree(int top, base::ObjectFormat format, const NextRow& expected,
                           const CompareOptions& options,
                           const std::function<void(const Difference&)>& on_difference);

}  // namespace wedge
