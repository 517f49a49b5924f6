#include "wedge/git_tree.h"

#include <algorithm>

#include "formats/base/numbers.h"

namespace wedge {

GitTree::GitTree(base::ObjectFormat format) : hasher_(format), open_(1) {}

void GitTree::add_file(const std::string& path, const base::ObjectId& blob, bool executable) {
  add(path, executable ? "100755" : "100644", blob);
}

void GitTree::add_symlink(const std::string& path, const std::string& target) {
  add(path, "120000", hasher_.hash(base::as_bytes(target)));
}

void GitTree::add(const std::string& path, const char* mode, const base::ObjectId& id) {
  std::vector<std::string_view> names;
  for (std::string_view rest = path; !rest.empty();) names.push_back(base::take_field(rest, '/'));
  std::size_t common = 0;  // directories that stay open
  while (common + 1 < open_.size() && common + 1 < names.size() && open_[common + 1].name == names[common])
    ++common;
  while (open_.size() > common + 1) (void)close_top();
  for (; common + 1 < names.size(); ++common) open_.push_back({std::string(names[common]), {}});
  open_.back().entries.push_back({std::string(names.back()), mode, id});
}

/// Names the innermost directory and enters it in the one around it.
base::ObjectId GitTree::close_top() {
  Directory top = std::move(open_.back());
  open_.pop_back();
  // A directory sorts as if its name ended in a slash.
  const auto end_of = [](const Entry& entry, std::size_t at) {
    if (at < entry.name.size()) return static_cast<unsigned char>(entry.name[at]);
    return static_cast<unsigned char>(entry.mode[0] == '4' ? '/' : '\0');
  };
  const auto before = [&](const Entry& a, const Entry& b) {
    const auto common = std::min(a.name.size(), b.name.size());
    const int order = a.name.compare(0, common, b.name, 0, common);
    return order != 0 ? order < 0 : end_of(a, common) < end_of(b, common);
  };
  std::sort(top.entries.begin(), top.entries.end(), before);
  base::Buffer content;
  for (const auto& entry : top.entries) {
    for (const std::string_view part : {std::string_view(entry.mode), std::string_view(" "),
                                        std::string_view(entry.name), std::string_view("\0", 1)})
      base::append(content, base::as_bytes(part));
    base::append(content, entry.id.raw());
  }
  const auto id = hasher_.hash(content, "tree");
  if (!open_.empty() && !top.entries.empty()) open_.back().entries.push_back({top.name, "40000", id});
  return id;
}

base::ObjectId GitTree::finish() {
  while (open_.size() > 1) (void)close_top();
  return close_top();
}

}  // namespace wedge
