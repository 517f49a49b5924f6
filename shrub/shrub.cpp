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

formats::VatList read_list(const internal::Files& files, const std::string& root) {
  return base::named(root + "/" + kVatListFile, [&] {
    const auto text = files.read(kVatListFile, kMaxVatList);
    if (!text) throw Error(Category::no_store, "is gone");
    return formats::parse_vat_list(*text);
  });
}

/// Paths in trust.json, in the order they were added.
std::vector<std::string> trusted_paths(const UserSettings& user) {
  std::vector<std::string> paths;
  const auto file = user.config_dir + "/" + kTrustFile;
  if (user.config_dir.empty() || ::access(file.c_str(), R_OK) != 0) return paths;  // unreadable is no consent
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

/// `prefix`: the directory, empty or ending in '/'.
void collect(const internal::Files& files, const std::string& prefix, std::vector<std::string>& entries) {
  std::set<std::string> directories, vrefs;
  for (const auto& [name, directory] :
       files.list(prefix.empty() ? "." : prefix.substr(0, prefix.size() - 1))) {
    if (name.starts_with('.')) continue;
    if (directory)
      directories.insert(name);
    else if (name.ends_with(kVrefSuffix) && name.size() > 5)
      vrefs.insert(name.substr(0, name.size() - 5));
  }
  for (const auto& name : vrefs) {
    if (directories.contains(name))
      throw Error(Category::refused, prefix + name + ": there are both a vref and a directory of that name");
    check_entry_name(prefix + name);
    entries.push_back(prefix + name);
  }
  for (const auto& name : directories) collect(files, prefix + name + "/", entries);
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
    if (at == at.root_path()) break;
  }
  throw Error(Category::no_store, path + ": no shrub here or above (no VAT.json)",
              "make one: shrub init --vat VAT " + path);
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

std::vector<std::string> Shrub::entries(const std::string& below) const {
  std::vector<std::string> found;
  if (below != ".") {
    check_entry_name(below);
    const auto bare = below.ends_with(kVrefSuffix) ? below.substr(0, below.size() - 5) : below;
    if (bare != below || files_->read(below + kVrefSuffix, formats::kMaxVref)) return {bare};
  }
  collect(*files_, below == "." ? "" : below + "/", found);
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
  return !before || !formats::same_but_for_time(*before, vref);
}

bool Shrub::write(const std::string& entry, const formats::Vref& vref) const {
  if (!commit_.empty()) throw Error(Category::refused, "commit " + commit_ + ": cannot be written");
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
  if (::access((user.config_dir + "/" + kTrustFile).c_str(), R_OK) != 0 && errno != ENOENT &&
      errno != ENOTDIR)
    base::throw_errno(user.config_dir + "/" + kTrustFile, errno);
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
  std::vector<Error> failures;
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
        const bool no_vat = error.category() == Category::no_store;
        failures.emplace_back(error.category(), error.what(),
                              no_vat ? "name one that is there: --vat DIR" : error.hint());
      }
    }
  }
  if (sources.empty()) {
    if (!failures.empty()) throw Error(failures.front());
    throw Error(Category::usage, shrub.root() + "/VAT.json: names no vat", "name one: --vat DIR");
  }
  if (user.on_note)
    for (const auto& failure : failures) user.on_note(failure.what());
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
