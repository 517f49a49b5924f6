#include "wedge/internal/kept.h"

#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "formats/base/error.h"
#include "wedge/internal/place_file.h"
#include "wedge/scanner.h"

namespace wedge::internal {
namespace {

using formats::Row;

/// The rows that are targets of hard links.
std::unordered_map<std::string, Row> find_targets(int records, const std::string& name) {
  std::unordered_map<std::string, Row> targets;
  Row row;
  for (const auto next = read_rows(records, name); next(row);)
    if (row.type == Row::Type::hard_link) targets.try_emplace(row.target);
  if (targets.empty()) return targets;
  for (const auto next = read_rows(records, name); next(row);)
    if (const auto target = targets.find(row.path); target != targets.end()) target->second = row;
  return targets;
}

/// `wanted` as it lies there: what was to be restored is as it was found.
Row kept_row(const Row& wanted, const Row& found, const Fidelity& fidelity) {
  Row kept = wanted;
  if (restored_mode(wanted, fidelity) != restored_mode(found, fidelity)) kept.mode = found.mode;
  kept.mtime = found.mtime;
  if (fidelity.owners) {
    kept.uid = found.uid;
    kept.gid = found.gid;
  }
  std::erase_if(kept.xattrs, [&](const auto& attribute) {
    return is_restored_xattr(attribute.first, fidelity) && !found.xattrs.contains(attribute.first);
  });
  return kept;
}

}  // namespace

std::uint64_t add_kept(int records, const std::string& from, int top, base::ObjectFormat format,
                       const Fidelity& fidelity, RecordWriter& to) {
  const auto targets = find_targets(records, from);
  const auto next = read_rows(records, from);
  std::uint64_t count = 0;
  Row wanted;
  bool have = next(wanted);
  ScanOptions scan;
  scan.threads = 1;
  scan.read_content = false;
  scan.keep_going = true;  // extra paths may be of any kind
  (void)scan_tree(top, format, nullptr, scan, [&](const ScannedRow& scanned) {
    const Row& found = scanned.row;
    for (; have && formats::compare_paths(wanted.path, found.path) < 0; have = next(wanted)) to.add(wanted);
    if (!have || wanted.path != found.path) return;  // extra
    to.add(wanted);
    const auto target = wanted.type == Row::Type::hard_link ? targets.find(wanted.target) : targets.end();
    Row kept = wanted;
    if (wanted.type != Row::Type::hard_link) {
      kept = kept_row(wanted, found, fidelity);
    } else if (found.type != Row::Type::hard_link && target != targets.end()) {
      kept = kept_row(target->second, found, fidelity);
      kept.path = wanted.path;
    }
    if (kept != wanted) {
      to.add_kept(kept);
      kept.xattrs = wanted.xattrs;  // counted as they were not set
      if (kept != wanted) ++count;
    }
    have = next(wanted);
  });
  for (; have; have = next(wanted)) to.add(wanted);
  return count;
}

NextRow as_kept(NextRow wanted, int records, const std::string& name, std::uint64_t& used) {
  struct Pairs {
    std::optional<RecordReader> reader;
    Row row;
    std::optional<Row> kept;
    bool have = false;
    void advance() { have = reader && reader->next(row, kept); }
  };
  auto pairs = std::make_shared<Pairs>();  // shared: a function has to be copyable
  pairs->reader = open_record(records, name);
  pairs->advance();
  return [wanted = std::move(wanted), pairs, &used](Row& row) {
    if (!wanted(row)) return false;
    while (pairs->have && formats::compare_paths(pairs->row.path, row.path) < 0) pairs->advance();
    if (pairs->have && pairs->kept && pairs->row == row) {
      row = *pairs->kept;
      ++used;
    }
    return true;
  };
}

}  // namespace wedge::internal
