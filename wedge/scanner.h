// From a directory to rows: walks a tree, names and (if asked) stores the content of every file.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "chunker/chunker.h"
#include "formats/base/error.h"
#include "formats/base/object_id.h"
#include "formats/text/manifest.h"
#include "vat/adder.h"
#include "vat/ingest.h"
#include "wedge/stat_cache.h"

namespace wedge {

/// What metadata is replaced by, so that two builders of the same content get the same manifest.
struct Normalize {
  formats::Timestamp mtime;
};

struct ScanOptions {
  unsigned threads = 0;                  ///< 0: one per core
  StatCache* cache = nullptr;            ///< what it knows is not read again …
  SpotCheck spot_check;                  ///< … but for these …
  std::vector<std::string> always_hash;  ///< … and what matches these patterns, see is_excluded()
  /// Told of a file whose content changed while size and times stayed the same. One call at a time.
  std::function<void(const std::string& path)> on_silent_change;
  chunker::Parameters parameters = chunker::make_parameters(chunker::kDefaultExponent);
  std::uint64_t max_holes = vat::kMaxHoles;  ///< bytes of holes of one file; with more it cannot be read
  std::vector<std::string> exclude;          ///< patterns, see is_excluded()
  bool one_file_system = false;
  /// What wedges keep for themselves (.shrub) is left out, wherever it is met, and this is told; on the
  /// calling thread. Empty: it is part of the tree.
  std::function<void(const std::string& path)> on_wedge_state;
  bool all_xattrs = false;   ///< record every extended attribute that can be read; files are opened for them
  bool keep_going = false;   ///< pass over what cannot be read; on_problem is told
  bool read_content = true;  ///< false: metadata only, blob ids stay unset
  std::optional<Normalize> normalize;
  std::vector<std::string>
      skip_directories;  ///< absolute paths of directories left out wherever they are met
  /// One call at a time. Refused: what no tree can hold; local: what could not be read.
  std::function<void(const std::string& path, const base::Error& problem)> on_problem;
  std::function<void(std::uint64_t)> progress;  ///< bytes read so far
};

/// A row and what is known beside it.
struct ScannedRow {
  formats::Row row;
  std::optional<base::ObjectId> recipe;
  bool executable = false;  ///< by its owner
  // Of a hard link, what the path it is linked to holds:
  std::optional<base::ObjectId> linked_blob;
  std::string linked_target;
};

/// Walks the tree below the directory `top` and calls `on_row` in manifest order, on the calling thread.
/// Symlinks are never followed. Content is stored through `adder` unless that is nullptr. Returns whether
/// something was passed over. Throws local for what cannot be read or changed while it was read, refused for
/// sockets and for names a manifest cannot hold; with keep_going these become problems.
bool scan_tree(int top, base::ObjectFormat format, vat::Adder* adder, const ScanOptions& options,
               const std::function<void(ScannedRow)>& on_row);

/// Whether `path` (relative to the tree) matches one of the patterns: shell globs; one without `/` is matched
/// against the last component, one with `/` against the whole path; a trailing `/` matches directories only.
[[nodiscard]] bool is_excluded(const std::vector<std::string>& patterns, const std::string& path,
                               bool directory);

/// What adding a tree yields.
struct TreeIds {
  base::ObjectId manifest, layout, tree;
  std::uint64_t size = 0;     ///< content bytes of all files
  std::uint64_t entries = 0;  ///< rows of the manifest
  bool partial = false;       ///< something was passed over (keep_going)
};

/// scan_tree into manifest, layout and git tree id, all stored through `adder`.
[[nodiscard]] TreeIds add_tree(int top, base::ObjectFormat format, vat::Adder& adder,
                               const ScanOptions& options);

}  // namespace wedge
