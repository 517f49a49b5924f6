#include "shrub/shrub.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/text/manifest.h"

namespace shrub {
namespace {

namespace fs = std::filesystem;
using base::Category;
using base::Error;

constexpr std::size_t kMaxVatList = std::size_t{1} << 20;
constexpr const char* kTrustFile = "trust.json";

std::string canonical(const std::string& path) {
  std::error_code failure;
  const auto result = fs::weakly_canonical(path.empty() ? "." : path, failure);
  if (failure) base::throw_errno(path, failure.value());
  auto text = fs::absolute(result).lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

formats::VatList read_list(const std::string& root) {
  return base::named(root + "/" + kVatListFile, [&] {
    return formats::parse_vat_list(base::read_file(AT_FDCWD, root + "/" + kVatListFile, kMaxVatList));
  });
}

/// Paths in trust.json, in the order they were added.
std::vector<std::string> trusted_paths(const UserSettings& user) {
  std::vector<std::string> paths;
  const auto file = user.config_dir + "/" + kTrustFile;
  if (user.config_dir.empty() || !fs::exists(file)) return paths;
  return base::named(file, [&] {
    const auto document = formats::json::parse(base::read_file(AT_FDCWD, file, kMaxVatList));
    const auto* object = document.find_object();
    const auto* list = object != nullptr ? formats::json::find(*object, "vats") : nullptr;
    std::uint64_t version = 0;
    const auto* number = object != nullptr ? formats::json::find(*object, "trust") : nullptr;
    if (number == nullptr || !number->find_unsigned(version) || version != 1)
      throw Error(Category::no_store, "of a version this program does not know");
    if (list != nullptr && list->find_array() != nullptr)
      for (const auto& value : *list->find_array())
        if (value.find_string() != nullptr) paths.push_back(*value.find_string());
    return paths;
  });
}

bool is_below(const std::string& path, const std::string& directory) {
  return path == directory || path.starts_with(directory == "/" ? directory : directory + "/");
}

void collect(int dir, const std::string& prefix, std::vector<std::string>& entries) {
  std::set<std::string> directories, vrefs;
  for (const auto& name : base::list_directory(dir)) {
    if (name.starts_with('.')) continue;
    struct stat info;
    if (::fstatat(dir, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISDIR(info.st_mode))
      directories.insert(name);
    else if (S_ISREG(info.st_mode) && name.ends_with(kVrefSuffix) && name.size() > 5)
      vrefs.insert(name.substr(0, name.size() - 5));
  }
  for (const auto& name : vrefs) {
    if (directories.contains(name))
      throw Error(Category::refused, prefix + name + ": there are both a vref and a directory of that name");
    if (!formats::is_safe_path(prefix + name))
      throw Error(Category::refused, prefix + name + ": not a name an entry can have");
    entries.push_back(prefix + name);
  }
  for (const auto& name : directories)
    collect(base::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW).get(), prefix + name + "/",
            entries);
}

}  // namespace

Shrub Shrub::find(const std::string& path) {
  const auto start = canonical(path);
  for (fs::path at = start;; at = at.parent_path()) {
    std::error_code failure;
    if (fs::is_regular_file(at / kVatListFile, failure)) return {at.string(), read_list(at.string())};
    if (at == at.root_path()) break;
  }
  throw Error(Category::no_store, path + ": no shrub here or above (no VAT.json)",
              "make one: shrub init --vat VAT " + path);
}

bool Shrub::would_create(const std::string& path, const formats::VatList& list) {
  if (!fs::exists(fs::path(path) / kVatListFile)) return true;
  const auto root = canonical(path);
  if (formats::to_text(read_list(root)) != formats::to_text(list))
    throw Error(Category::refused, root + ": already a shrub, with other vats",
                "edit " + root + "/VAT.json instead");
  return false;
}

Shrub Shrub::create(const std::string& path, const formats::VatList& list) {
  const bool fresh = would_create(path, list);
  base::make_directories(path);
  const auto root = canonical(path);
  if (!fresh) return {root, read_list(root)};
  const auto dir = base::open_directory(AT_FDCWD, root);
  base::write_file_atomically(dir.get(), kVatListFile, base::as_bytes(formats::to_text(list)));
  return {root, list};
}

std::string Shrub::relative(const std::string& path) const {
  const auto full = canonical(path);
  if (!is_below(full, root_)) throw Error(Category::refused, path + ": outside of the shrub " + root_);
  return full == root_ ? "." : full.substr(root_ == "/" ? 1 : root_.size() + 1);
}

std::vector<std::string> Shrub::entries(const std::string& below) const {
  std::vector<std::string> found;
  const auto top = base::open_directory(AT_FDCWD, root_);
  const bool single = fs::is_regular_file(fs::path(root_) / (below + kVrefSuffix));
  if (single) return {below};
  if (below != "." && below.ends_with(kVrefSuffix)) return {below.substr(0, below.size() - 5)};
  const auto dir = base::open_beneath(top.get(), below, O_RDONLY | O_DIRECTORY);
  collect(dir.get(), below == "." ? "" : below + "/", found);
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<formats::Vref> Shrub::find_vref(const std::string& entry) const {
  const auto path = root_ + "/" + entry + kVrefSuffix;
  if (!base::find_open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK)) return std::nullopt;
  return base::named(entry + kVrefSuffix, [&] {
    auto vref = formats::parse_vref(base::read_file(AT_FDCWD, path, formats::kMaxVref));
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

bool Shrub::would_write(const std::string& entry, const formats::Vref& vref) const {
  const auto before = find_vref(entry);
  if (before && formats::same_but_for_time(*before, vref)) return false;
  if (fs::is_directory(fs::path(root_) / entry))
    throw Error(Category::refused, entry + ": there is a directory of the name the entry would have");
  return true;
}

bool Shrub::write(const std::string& entry, const formats::Vref& vref) const {
  if (!would_write(entry, vref)) return false;
  const fs::path path = fs::path(root_) / (entry + kVrefSuffix);
  base::make_directories(path.parent_path().string());
  const auto dir = base::open_directory(AT_FDCWD, path.parent_path().string());
  base::remove_leftovers(dir.get());
  base::write_file_atomically(dir.get(), path.filename().string(), base::as_bytes(formats::to_text(vref)));
  return true;
}

std::string local_path(const std::string& root, const std::string& url) {
  std::string path = url.starts_with("file://") ? url.substr(7) : url;
  if (path.find("://") != std::string::npos)
    throw Error(Category::usage, "vat " + url + ": only vats on the local disk can be used");
  if (!path.starts_with('/')) path = root + "/" + path;
  return canonical(path);
}

bool is_trusted(const UserSettings& user, const std::string& path) {
  const auto paths = trusted_paths(user);
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}

void trust(const UserSettings& user, const std::string& path) {
  if (user.config_dir.empty())
    throw Error(Category::usage, "neither XDG_CONFIG_HOME nor HOME is set: nowhere to keep consent");
  auto paths = trusted_paths(user);
  if (std::find(paths.begin(), paths.end(), path) != paths.end()) return;
  paths.push_back(path);
  formats::json::Array list(paths.begin(), paths.end());
  base::make_directories(user.config_dir);
  const auto dir = base::open_directory(AT_FDCWD, user.config_dir);
  base::write_file_atomically(
      dir.get(), kTrustFile,
      base::as_bytes(formats::json::to_document({{"trust", 1}, {"vats", std::move(list)}})), 0600);
}

Vats open_vats(const Shrub& shrub, const std::vector<std::string>& instead, const UserSettings& user) {
  Vats vats;
  std::vector<std::shared_ptr<vat::BlobSource>> sources;
  std::optional<Error> failure;
  const auto open = [&](const std::string& path, bool write) {
    auto opened = std::shared_ptr<vat::Vat>(vat::Vat::open(path, {user.cache_dir, user.on_note}));
    if (opened->object_format() != shrub.list().object_format)
      throw Error(Category::usage,
                  "vat " + path + ": object format " + std::string(base::to_string(opened->object_format())) +
                      ", but VAT.json says " + std::string(base::to_string(shrub.list().object_format)));
    if (write && vats.writable == nullptr) vats.writable = opened;
    sources.push_back(std::move(opened));
  };
  for (const auto& url : instead) open(local_path(canonical("."), url), true);
  if (instead.empty()) {
    for (const auto& entry : shrub.list().vats) {
      try {
        const auto path = local_path(shrub.root(), entry.url);
        if (!is_below(path, shrub.root()) && !is_trusted(user, path))
          throw Error(Category::refused,
                      "vat " + path + ": named by VAT.json, outside of the shrub, and not trusted",
                      "shrub trust " + path + " (or --vat " + path + ")");
        open(path, entry.write);
      } catch (const Error& error) {
        // A set of vats works with what is left of it; the first failure is told if nothing is.
        if (entry.write && !vats.write_failure) vats.write_failure.emplace(error);
        if (user.on_note) user.on_note(error.what());
        if (!failure) failure.emplace(error);
      }
    }
  }
  if (sources.empty()) {
    if (failure) throw Error(*failure);
    throw Error(Category::usage, shrub.root() + "/VAT.json: names no vat", "name one: --vat DIR");
  }
  vats.source = sources.size() == 1 ? sources.front() : std::make_shared<vat::SourceSet>(sources);
  return vats;
}

wedge::EntryRoot entry_root(const formats::Vref& vref) {
  wedge::EntryRoot root;
  root.type = static_cast<wedge::EntryRoot::Type>(vref.type);
  root.manifest = vref.manifest;
  root.layout = vref.layout;
  root.blob = vref.blob;
  root.recipe = vref.recipe;
  root.size = vref.size;
  root.unpack = vref.unpack;
  return root;
}

}  // namespace shrub
