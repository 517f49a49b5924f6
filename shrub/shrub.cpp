#include "shrub/shrub.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/manifest.h"
#include "shrub/internal/files.h"

namespace shrub {
namespace {

namespace fs = std::filesystem;
using base::Category;
using base::Error;
using internal::canonical;
using internal::is_below;

constexpr std::size_t kMaxVatList = std::size_t{1} << 20;

formats::VatList read_list(const internal::Files& files, const std::string& root) {
  return base::named(root + "/" + kVatListFile, [&] {
    const auto text = files.read(kVatListFile, kMaxVatList);
    if (!text) throw Error(Category::no_store, "is gone");
    return formats::parse_vat_list(*text);
  });
}

/// Refuses names that no entry can have: those a shrub passes over (`.git` and the like) and those that
/// escape.
void check_entry_name(const std::string& entry) {
  if (("/" + entry).find("/.") != std::string::npos)
    throw Error(Category::refused, entry + ": a name of an entry cannot begin with '.'");
  if (!formats::is_safe_path(entry)) throw Error(Category::refused, entry + ": not a name an entry can have");
}

/// Refuses an entry below another one, or in place of a directory.
void check_no_clash(const std::string& root, const std::string& entry) {
  std::error_code absent;
  if (fs::is_directory(fs::path(root) / entry, absent))
    throw Error(Category::refused, entry + ": there is a directory of the name the entry would have");
  for (auto slash = entry.find('/'); slash != std::string::npos; slash = entry.find('/', slash + 1))
    if (fs::exists(fs::path(root) / (entry.substr(0, slash) + kVrefSuffix), absent))
      throw Error(Category::refused, entry + ": lies below the entry " + entry.substr(0, slash));
}

/// `prefix`: the directory, empty or ending in '/'. `links`: what looks like a vref, or like a directory of
/// some, and is a symlink.
void collect(const internal::Files& files, const std::string& prefix, std::vector<std::string>& entries,
             std::vector<std::string>* links) {
  using Type = internal::Files::Name::Type;
  std::set<std::string> directories, vrefs;
  for (const auto& [name, type] : files.list(prefix.empty() ? "." : prefix.substr(0, prefix.size() - 1))) {
    if (name.starts_with('.')) continue;
    if (type == Type::directory)
      directories.insert(name);
    else if (type == Type::link) {
      if (links != nullptr && (name.ends_with(kVrefSuffix) || name.find('.') == std::string::npos))
        links->push_back(prefix + name);
    } else if (name.ends_with(kVrefSuffix) && name.size() > 5)
      vrefs.insert(name.substr(0, name.size() - 5));
  }
  for (const auto& name : vrefs) {
    if (directories.contains(name))
      throw Error(Category::refused, prefix + name + ": there are both a vref and a directory of that name");
    check_entry_name(prefix + name);
    entries.push_back(prefix + name);
  }
  for (const auto& name : directories) collect(files, prefix + name + "/", entries, links);
}

}  // namespace

Shrub::Shrub(std::string root, std::shared_ptr<const internal::Files> files, std::string commit)
    : root_(std::move(root)),
      files_(std::move(files)),
      commit_(std::move(commit)),
      list_(read_list(*files_, root_)) {}

Shrub Shrub::find(const std::string& path) {
  const auto start = canonical(path);
  for (fs::path at = start;; at = at.parent_path()) {
    std::error_code failure;
    if (fs::is_regular_file(at / kVatListFile, failure))
      return {at.string(), internal::files_in(at.string())};
    if (failure == std::errc::io_error)  // a disk that fails is not one without a shrub
      base::throw_errno((at / kVatListFile).string(), failure.value());
    if (at == at.root_path()) break;
  }
  throw Error(Category::no_store, path + ": no shrub here or above (no VAT.json)",
              "make one: shrub init --vat VAT " +
                  (path.ends_with(kVrefSuffix) ? (fs::path(path).parent_path() / ".").string() : path));
}

Shrub Shrub::find_at(const std::string& path, const std::string& revision) {
  const std::shared_ptr<Repository> repository = Repository::find(path);
  const auto commit = repository->resolve(revision);
  const auto full = canonical(path);
  const auto& top = repository->top();
  auto below = full == top ? "." : full.substr(top == "/" ? 1 : top.size() + 1);
  while (true) {
    const auto list = below == "." ? std::string(kVatListFile) : below + "/" + kVatListFile;
    if (repository->find_id(commit, list))
      return {below == "." ? top : top + "/" + below, internal::files_at(repository, commit, below), commit};
    if (below == ".") break;
    const auto slash = below.rfind('/');
    below = slash == std::string::npos ? "." : below.substr(0, slash);
  }
  throw Error(Category::no_store, path + ": no shrub here or above in " + revision + " (no VAT.json)");
}

bool Shrub::would_create(const std::string& path, const formats::VatList& list) {
  if (!base::find_open_at(AT_FDCWD, path + "/" + kVatListFile, O_RDONLY)) return true;
  const auto root = canonical(path);
  if (formats::to_text(read_list(*internal::files_in(root), root)) != formats::to_text(list))
    throw Error(Category::refused, root + ": already a shrub, with other vats",
                "edit " + root + "/VAT.json instead");
  return false;
}

Shrub Shrub::create(const std::string& path, const formats::VatList& list) {
  const bool fresh = would_create(path, list);
  base::make_directories(path);
  const auto root = canonical(path);
  const auto dir = base::open_directory(AT_FDCWD, root);
  if (fresh) base::write_file_atomically(dir.get(), kVatListFile, base::as_bytes(formats::to_text(list)));
  return {root, internal::files_in(root)};
}

std::string Shrub::relative(const std::string& path) const {
  const auto full = canonical(path);
  if (!is_below(full, root_)) throw Error(Category::refused, path + ": outside of the shrub " + root_);
  return full == root_ ? "." : full.substr(root_ == "/" ? 1 : root_.size() + 1);
}

std::vector<std::string> Shrub::entries(const std::string& below, std::vector<std::string>* links) const {
  std::vector<std::string> found;
  if (below != ".") {
    check_entry_name(below);
    const auto bare = below.ends_with(kVrefSuffix) ? below.substr(0, below.size() - 5) : below;
    if (bare != below || files_->read(below + kVrefSuffix, formats::kMaxVref)) return {bare};
  }
  collect(*files_, below == "." ? "" : below + "/", found, links);
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<formats::Vref> Shrub::find_vref(const std::string& entry) const {
  check_entry_name(entry);
  return base::named(entry + kVrefSuffix, [&]() -> std::optional<formats::Vref> {
    const auto text = files_->read(entry + kVrefSuffix, formats::kMaxVref);
    if (!text) return std::nullopt;
    auto vref = formats::parse_vref(*text);
    if (vref.object_format != list_.object_format)
      throw Error(Category::refused, "object format " + std::string(base::to_string(vref.object_format)) +
                                         ", but VAT.json says " +
                                         std::string(base::to_string(list_.object_format)));
    return vref;
  });
}

formats::Vref Shrub::read(const std::string& entry) const {
  auto vref = find_vref(entry);
  if (!vref) throw Error(Category::not_found, entry + kVrefSuffix + ": no such vref in " + root_);
  return *std::move(vref);
}

void Shrub::require_free(const std::string& entry) const {
  check_entry_name(entry);
  check_no_clash(root_, entry);
}

bool Shrub::would_write(const std::string& entry, const formats::Vref& vref) const {
  require_free(entry);
  const auto before = find_vref(entry);
  return !before || !formats::same_but_for_fetch(*before, vref);
}

bool Shrub::write(const std::string& entry, const formats::Vref& vref) const {
  if (commit_.empty() && !would_write(entry, vref)) return false;
  write_text(entry + kVrefSuffix, formats::to_text(vref));
  return true;
}

std::optional<std::string> Shrub::find_text(const std::string& path, std::size_t limit) const {
  return base::named(path, [&] { return files_->read(path, limit); });
}

void Shrub::write_text(const std::string& path, const std::string& text) const {
  if (!commit_.empty()) throw Error(Category::refused, "commit " + commit_ + ": cannot be written");
  const fs::path full = fs::path(root_) / path;
  base::make_directories(full.parent_path().string());
  const auto dir = base::open_directory(AT_FDCWD, full.parent_path().string());
  base::remove_leftovers(dir.get());
  base::write_file_atomically(dir.get(), full.filename().string(), base::as_bytes(text));
}

wedge::EntryRoot entry_root(const formats::Vref& vref) {
  wedge::EntryRoot root;
  root.type = static_cast<wedge::EntryRoot::Type>(vref.type);
  root.manifest = vref.manifest;
  root.layout = vref.layout;
  root.blob = vref.blob;
  root.recipe = vref.recipe;
  root.size = vref.size;
  root.executable = vref.executable;
  root.unpack = vref.unpack;
  // An overlay takes somebody who knows what it stands on: checkpoints.h.
  if (vref.materialize == "qcow2-zstd")
    root.form = wedge::EntryRoot::Form::qcow2_zstd;
  else if (!vref.materialize.empty())
    root.form = wedge::EntryRoot::Form::qcow2;
  return root;
}

std::vector<vat::Root> roots_of(const formats::Vref& vref) {
  std::vector<vat::Root> roots{entry_root(vref).content()};
  if (vref.trace) roots.push_back({{}, {}, vref.trace, {}});
  return roots;
}

}  // namespace shrub
