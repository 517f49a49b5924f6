// What a wedge remembers of an entry it made. docs/formats/wedge-state.md
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "formats/base/atomic_file.h"
#include "formats/base/hash.h"
#include "formats/base/line_reader.h"
#include "formats/base/object_id.h"
#include "formats/base/unique_fd.h"
#include "formats/text/manifest.h"
#include "wedge/comparison.h"

namespace wedge::internal {

/// The head of a record: one line of JSON. The rows of what was made follow it.
struct Record {
  std::string path;         ///< of the entry, below the wedge
  std::string owner;        ///< the shrub it belongs to
  std::string key;          ///< root and fidelity in one line
  std::uint64_t inode = 0;  ///< of the entry's top
  std::string workspace;    ///< directory in tmp/ where the entry was built
  base::ObjectFormat format = base::ObjectFormat::sha256;
  bool in_place = false;  ///< the workspace has what changes, not the whole entry
  bool kept = false;      ///< some rows are followed by what the file system kept of them
};

/// Reads a record line by line; what does not parse is as if it were not there.
class RecordReader {
 public:
  explicit RecordReader(base::UniqueFd fd) : lines_(std::move(fd)) {}
  [[nodiscard]] std::optional<Record> head();
  /// After head(). What was to be made.
  [[nodiscard]] bool next(formats::Row& row);
  /// … and what the file system kept of it, if that is something else.
  [[nodiscard]] bool next(formats::Row& row, std::optional<formats::Row>& kept);

 private:
  bool next_line();
  base::LineReader lines_;
  std::string line_;
  bool have_line_ = false;  ///< it was read ahead
  base::ObjectFormat format_ = base::ObjectFormat::sha256;
};

/// Records are named by hash, so that no path of an entry can clash with another or with a suffix.
[[nodiscard]] std::string record_name(const std::string& path);

/// The head of a record; nullopt if there is none, or it does not parse. `records`: the directory it is in;
/// -1: there is none. Its rows are not looked at.
[[nodiscard]] std::optional<Record> read_record(int records, const std::string& name);
/// The same, after a look through all of it: nullopt also if it is not what was written.
[[nodiscard]] std::optional<Record> read_sound_record(int records, const std::string& name);
/// The record after its head; nullopt if there is none, or its head does not parse.
[[nodiscard]] std::optional<RecordReader> open_record(int records, const std::string& name);
/// Its rows; none if there is no such record.
[[nodiscard]] NextRow read_rows(int records, const std::string& name);
/// … as the file system kept them.
[[nodiscard]] NextRow read_kept_rows(int records, const std::string& name);
[[nodiscard]] std::optional<formats::Row> read_first(int records, const std::string& name);

/// Writes a record as its rows come. The head needs the inode of the entry's top, which exists when the first
/// row comes.
class RecordWriter {
 public:
  /// `records`: directory it goes to. `work`: the directory in which the entry is being built as "new"; -1 if
  /// `record` has its inode already.
  RecordWriter(int records, Record record, int work);
  void add(const formats::Row& row);
  /// What the file system kept of the last row; `record` says that there is such.
  void add_kept(const formats::Row& row);
  /// The first row added.
  [[nodiscard]] const formats::Row& top() const noexcept { return top_; }
  /// Durable when this returns.
  void publish(const std::string& name);

 private:
  void flush();
  int records_;
  base::AtomicFile file_;
  base::Sha256 hash_;
  Record record_;
  int work_;
  formats::Row top_;
  std::string text_;
  bool begun_ = false;
};

}  // namespace wedge::internal
