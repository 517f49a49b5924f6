// Makes what an entry is to be, beside what it is; settle.h puts it in its place.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

#include "vat/blob_source.h"
#include "wedge/internal/content_update.h"
#include "wedge/internal/record.h"
#include "wedge/internal/wedge_dir.h"
#include "wedge/tree_writer.h"
#include "wedge/unpack.h"
#include "wedge/wedge.h"

namespace wedge::internal {

[[nodiscard]] inline bool is_tree(const EntryRoot& root) {
  return root.type == EntryRoot::Type::tree || !root.unpack.empty();
}

/// Makes the entry `path`. All that it is given must outlive it.
class EntryMaker {
 public:
  EntryMaker(const WedgeDir& dir, vat::BlobSource& source, const std::string& path, const EntryRoot& root,
             const SyncOptions& options)
      : dir_(dir), source_(source), path_(path), root_(root), options_(options) {}

  /// What making the entry will read; `untouched`: the record of what lies there, if it still is that.
  [[nodiscard]] vat::Expected reading(const std::optional<Record>& untouched) const;

  /// Makes "new" in `work`, and its rows. `is_there`: a directory lies at the path, whose files may be used
  /// again.
  [[nodiscard]] WriteSummary build(int work, bool is_there, RecordWriter& record) const;
  /// Which of the extra paths the root has too, with another type, content or target, or has a file for one
  /// of the directories they lie in. Those that it has alike are taken out of `extras`. By-products are left:
  /// the root's take their place.
  [[nodiscard]] std::vector<Difference> find_collisions(std::vector<std::string>& extras) const;
  /// Takes extra paths of what lies there, in order, over into "new": files by hard link, or as copies where
  /// that cannot be, so that the old tree stays whole. By-products that cannot be had stay there, with a
  /// note.
  void carry(const std::vector<std::string>& extras, int work) const;

  /// Announces "new" in `work` with what the file system kept of its `rows`; returns how many it has
  /// otherwise.
  [[nodiscard]] std::uint64_t write_kept(const Record& made, int work, RecordWriter& rows) const;

  /// Whether what lies there, which `record` says and `there` is, is of a kind that can change in place.
  [[nodiscard]] bool can_change_in_place(const Record& record, const struct stat& there) const;
  /// Makes in `work` what changes of that, and announces it as `made`; nothing in the entry changes yet.
  /// nullopt, and nothing done, if the entry does not allow it.
  [[nodiscard]] std::optional<WriteSummary> stage(const Record& record, const Record& made, int work) const;

  /// Writes the record `made` of what lies there already; settled at once.
  void write_record(const Record& made) const;

  /// Whether the stat cache is to know what was made: reading a small file again costs less than a tick of
  /// the clock.
  [[nodiscard]] bool is_remembered() const;
  /// After a change in place: what a file holds now was proven.
  void remember_content() const;

 private:
  /// Rows of a tree or archive, as they will be made.
  [[nodiscard]] std::vector<base::ScratchPlace> scratch() const;
  void for_each_row(const std::function<void(const formats::Row&)>& visit) const;
  /// True if it made a directory, which has no metadata yet.
  bool carry_one(const std::string& extra, int old, int fresh) const;
  [[nodiscard]] WriteSummary stage_tree(const Record& made, int work, RecordWriter& next) const;
  [[nodiscard]] std::optional<WriteSummary> stage_content(const Record& record, const Record& made, int work,
                                                          RecordWriter& next) const;
  [[nodiscard]] ContentUpdate content_update(const Record& record, int fd) const;
  [[nodiscard]] std::optional<std::uint64_t> clone_content(int work) const;
  [[nodiscard]] WriteOptions write_options(int reuse_top, RecordWriter& record) const;
  [[nodiscard]] KnownFile known(const struct stat& info) const;
  [[nodiscard]] std::uint64_t max_holes() const noexcept {
    return max_archive_holes(root_.size, options_.allow_holes);
  }

  const WedgeDir& dir_;
  vat::BlobSource& source_;
  const std::string& path_;
  const EntryRoot& root_;
  const SyncOptions& options_;
};

}  // namespace wedge::internal
