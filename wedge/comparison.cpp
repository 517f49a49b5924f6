#include "wedge/comparison.h"

#include <fcntl.h>
#include <sys/xattr.h>

#include <map>
#include <optional>
#include <unordered_set>

#include "formats/base/error.h"
#include "formats/base/unique_fd.h"
#include "wedge/internal/place_file.h"
#include "wedge/scanner.h"

namespace wedge {
namespace {

using formats::Row;
using Kind = Difference::Kind;

/// Which attributes can be set on a file system and by this user, tried on a file without a name.
class Settable {
 public:
  explicit Settable(int top) : top_(top) {}
  bool operator()(const std::string& name, const std::string& value) {
    const auto space = name.substr(0, name.find('.'));
    const auto known = known_.find(space);
    if (known != known_.end()) return known->second;
    const base::UniqueFd scratch(::openat(top_, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    const bool can =
        scratch.get() >= 0 && ::fsetxattr(scratch.get(), name.c_str(), value.data(), value.size(), 0) == 0;
    return known_[space] = can;
  }

 private:
  int top_;
  std::map<std::string, bool> known_;  ///< by name space: user, system, security
};

std::string metadata_difference(const Row& expected, const Row& found, const Fidelity& fidelity,
                                Settable& settable) {
  if (expected.type == Row::Type::symlink || expected.type == Row::Type::hard_link ||
      formats::is_special(expected))
    if (expected.target != found.target) return "leads to " + found.target + ", not " + expected.target;
  if (expected.type == Row::Type::hard_link) return {};
  if (expected.type != Row::Type::symlink &&
      internal::restored_mode(expected, fidelity) != internal::restored_mode(found, fidelity))
    return "mode";
  if (expected.mtime != found.mtime) return "time";
  if (fidelity.owners && (expected.uid != found.uid || expected.gid != found.gid)) return "owner";
  for (const auto& [name, value] : expected.xattrs) {
    const auto there = found.xattrs.find(name);
    if (!internal::is_restored_xattr(name, fidelity)) continue;
    if (there == found.xattrs.end() ? settable(name, value) : there->second != value)
      return "attribute " + name;
  }
  for (const auto& [name, value] : found.xattrs)
    if (internal::is_restored_xattr(name, fidelity) && !expected.xattrs.contains(name))
      return "attribute " + name;
  return {};
}

}  // namespace

std::string_view to_string(Kind kind) noexcept {
  static constexpr const char* kNames[] = {"missing", "extra", "type", "content", "metadata"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::uint64_t compare_tree(int top, base::ObjectFormat format, const NextRow& expected,
                           const CompareOptions& options,
                           const std::function<void(const Difference&)>& on_difference) {
  std::uint64_t count = 0;
  std::unordered_set<std::string> missing, matched;  // paths; of directories
  const auto report = [&](Kind kind, const std::string& path, std::string detail) {
    ++count;
    if (kind == Kind::missing) missing.insert(path);
    on_difference({kind, path, std::move(detail)});
  };
  Settable settable(top);
  Row wanted;
  bool have = false;
  std::unordered_set<std::string> left_out;
  const auto advance = [&] {
    while ((have = expected(wanted))) {
      const bool linked = wanted.type == Row::Type::hard_link && left_out.contains(wanted.target);
      if (!internal::is_left_out(wanted, options.fidelity) && !linked) return;
      left_out.insert(wanted.path);  // neither restored nor compared
    }
  };
  const auto compare = [&](const Row& found) {
    if (wanted.type != found.type) return report(Kind::type, found.path, {});
    if (found.type == Row::Type::file &&
        (wanted.size != found.size || (options.read_content && wanted.blob != found.blob)))
      return report(Kind::content, found.path, {});
    const auto detail = metadata_difference(wanted, found, options.fidelity, settable);
    // Without reading, a changed time is all there is to show changed content.
    if (!detail.empty())
      report(detail == "time" && !options.read_content && found.type == Row::Type::file ? Kind::content
                                                                                        : Kind::metadata,
             found.path, detail);
  };

  advance();
  ScanOptions scan;
  scan.threads = options.threads;
  scan.read_content = options.read_content;
  scan.cache = options.cache;
  scan.spot_check = options.spot_check;
  scan.progress = options.progress;
  scan.keep_going = true;
  std::vector<std::string> odd;  // sockets and the like: nothing a tree holds
  std::vector<std::pair<std::string, base::Error>> unreadable;
  scan.on_problem = [&](const std::string& path, const base::Error& problem) {
    if (problem.category() == base::Category::refused)
      odd.push_back(path);
    else
      unreadable.emplace_back(path, problem);
  };
  (void)scan_tree(top, format, nullptr, scan, [&](const ScannedRow& scanned) {
    const Row& found = scanned.row;
    while (have && formats::compare_paths(wanted.path, found.path) < 0) {
      report(Kind::missing, wanted.path, {});
      advance();
    }
    if (left_out.contains(found.path) && (formats::is_special(found) || found.type == Row::Type::hard_link))
      return;
    if (!have || wanted.path != found.path) return report(Kind::extra, found.path, {});
    if (found.type == Row::Type::directory) matched.insert(found.path);
    compare(found);
    advance();
  });
  while (have) {
    report(Kind::missing, wanted.path, {});
    advance();
  }
  // Of what is expected, what cannot be read is neither equal nor different. What is extra need not be read.
  for (const auto& [path, problem] : unreadable) {
    if (missing.contains(path) || matched.contains(path)) throw base::Error(problem);
    odd.push_back(path);
  }
  for (const auto& path : odd) report(Kind::extra, path, "cannot be read as part of a tree");
  return count;
}

}  // namespace wedge
