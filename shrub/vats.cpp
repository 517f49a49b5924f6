#include "shrub/vats.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "formats/base/atomic_file.h"
#include "formats/base/base64.h"
#include "formats/base/file.h"
#include "formats/base/url.h"
#include "formats/base/utf8.h"
#include "formats/json/json.h"
#include "shrub/internal/files.h"

namespace shrub {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kMaxTrustFile = std::size_t{1} << 20;
constexpr const char* kTrustFile = "trust.json";
constexpr const char* kTimes = "trust-times";
constexpr const char* kEncoded = "-base64";  ///< lists of names that JSON cannot hold, as --json prints them

/// What trust.json holds, each in the order it was added.
struct Trusted {
  std::vector<std::string> vats, times;
};

Trusted read_trusted(const std::string& config_dir) {
  Trusted trusted;
  const auto file = config_dir + "/" + kTrustFile;
  if (config_dir.empty() || ::access(file.c_str(), R_OK) != 0) return trusted;  // unreadable is no consent
  return base::named(file, [&] {
    const auto document = formats::json::parse(base::read_file(AT_FDCWD, file, kMaxTrustFile));
    const auto* object = document.find_object();
    std::uint64_t version = 0;
    const auto* number = object != nullptr ? formats::json::find(*object, "trust") : nullptr;
    if (number == nullptr || !number->find_unsigned(version) || version != 1)
      throw Error(Category::no_store, "of a version this program does not know");
    const auto read_list = [&](const char* key, std::vector<std::string>& to) {
      const auto* list = formats::json::find(*object, key);
      const auto* encoded = formats::json::find(*object, std::string(key) + kEncoded);
      if (list != nullptr && list->find_array() != nullptr)
        for (const auto& value : *list->find_array())
          if (value.find_string() != nullptr) to.push_back(*value.find_string());
      if (encoded != nullptr && encoded->find_array() != nullptr)
        for (const auto& value : *encoded->find_array())
          if (auto name =
                  value.find_string() != nullptr ? base::from_base64(*value.find_string()) : std::nullopt)
            to.push_back(std::move(*name));
    };
    read_list("vats", trusted.vats);
    read_list(kTimes, trusted.times);
    return trusted;
  });
}

/// Adds `name` to one of the lists.
void add_trusted(const std::string& config_dir, std::vector<std::string> Trusted::*list,
                 const std::string& name) {
  if (config_dir.empty())
    throw Error(Category::usage, "neither XDG_CONFIG_HOME nor HOME is set: nowhere to keep consent");
  if (::access((config_dir + "/" + kTrustFile).c_str(), R_OK) != 0 && errno != ENOENT && errno != ENOTDIR)
    base::throw_errno(config_dir + "/" + kTrustFile, errno);
  auto trusted = read_trusted(config_dir);
  auto& names = trusted.*list;
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  names.push_back(name);
  formats::json::Object document{{"trust", 1}};
  const auto write_list = [&](const std::string& key, const std::vector<std::string>& all, bool always) {
    formats::json::Array plain, encoded;
    for (const auto& one : all) {
      if (base::is_utf8(one))
        plain.emplace_back(one);
      else
        encoded.emplace_back(base::to_base64(base::as_bytes(one)));
    }
    if (always || !plain.empty()) document.emplace_back(key, std::move(plain));
    if (!encoded.empty()) document.emplace_back(key + kEncoded, std::move(encoded));
  };
  write_list("vats", trusted.vats, true);
  write_list(kTimes, trusted.times, false);
  base::make_directories(config_dir);
  const auto dir = base::open_directory(AT_FDCWD, config_dir);
  base::write_file_atomically(dir.get(), kTrustFile, base::as_bytes(formats::json::to_document(document)),
                              0600);
}

/// Where a vat of VAT.json is, and what it may do.
vat::PeerAddress address_of(const formats::VatEntry& entry, const UserSettings& user, bool named_by_user) {
  vat::PeerAddress address;
  address.url = entry.url;
  address.endpoint = entry.endpoint;
  address.region = entry.region;
  const auto name = full_name({}, entry.url);
  const bool trusted = named_by_user || is_trusted(user, name);
  if (!trusted && (entry.url.starts_with("ssh://") || entry.url.starts_with("sftp://")))
    throw Error(Category::refused, "vat " + name + ": named by VAT.json, wants a login, and not trusted",
                "shrub trust " + name);
  // Credentials are for a host: that of the bucket's endpoint, if it has one of its own.
  const bool may_log_in =
      trusted && (named_by_user || entry.endpoint.empty() || is_trusted(user, full_name({}, entry.endpoint)));
  address.may_be_local = may_log_in;
  if (may_log_in && user.add_credentials) user.add_credentials(address);
  return address;
}

}  // namespace

std::string full_name(const std::string& root, const std::string& url) {
  if (vat::is_remote(url)) {
    constexpr const char* kSchemes[] = {"http://", "https://", "s3://", "ssh://", "sftp://"};
    if (std::none_of(std::begin(kSchemes), std::end(kSchemes),
                     [&](const char* scheme) { return url.starts_with(scheme); }))
      throw Error(Category::usage, base::without_secrets(url) +
                                       ": not a kind of vat this program knows (http, https, s3, ssh)");
    if (url.find(":///") != std::string::npos)
      throw Error(Category::usage, base::without_secrets(url) + ": names no host");
    if (base::holds_secret(url) || url.find_first_of("?#") != std::string::npos)
      throw Error(Category::usage,
                  base::without_secrets(url) + ": a vat's URL has no login, query or fragment",
                  "logins are those of ssh, of ~/.aws and the AWS variables");
    auto name = url;
    while (name.ends_with('/')) name.pop_back();
    return name;
  }
  if (!url.starts_with("file://") && base::holds_secret(url))
    throw Error(Category::usage, base::without_secrets(url) + ": looks like a login, and is no path",
                "./ before a path that is one");
  std::string path = url.starts_with("file://") ? url.substr(7) : url;
  if (!path.starts_with('/')) path = root + "/" + path;
  return internal::canonical(path);
}

bool is_trusted(const UserSettings& user, const std::string& name) {
  const auto names = read_trusted(user.config_dir).vats;
  return std::find(names.begin(), names.end(), name) != names.end();
}

void trust(const UserSettings& user, const std::string& name) {
  add_trusted(user.config_dir, &Trusted::vats, name);
}

std::vector<std::string> trusted_times(const std::string& config_dir) {
  return read_trusted(config_dir).times;
}

bool has_secret_trusted(const std::string& config_dir) {
  const auto vats = read_trusted(config_dir).vats;
  return std::any_of(vats.begin(), vats.end(), [](const auto& name) { return base::holds_secret(name); });
}

void trust_times(const std::string& config_dir, const std::string& path) {
  add_trusted(config_dir, &Trusted::times, path);
}

Vats open_vats(const Shrub& shrub, const std::vector<std::string>& instead,
               const std::vector<std::string>& beside, const UserSettings& user) {
  Vats vats;
  std::vector<std::shared_ptr<vat::BlobSource>> sources;
  std::vector<vat::PeerAddress> addresses;
  std::vector<Error> failures;
  std::vector<std::size_t> absent;  ///< among failures
  const auto format = shrub.list().object_format;
  const auto open = [&](const std::string& path, bool write) {
    auto opened = std::shared_ptr<vat::Vat>(vat::Vat::open(path, {user.peers.cache_dir, user.peers.on_note}));
    if (opened->object_format() != format)
      throw Error(Category::usage, "vat " + path + ": object format " +
                                       std::string(base::to_string(opened->object_format())) +
                                       ", but VAT.json says " + std::string(base::to_string(format)));
    if (write && vats.writable == nullptr) vats.writable = opened;
    vats.local.push_back(opened);
    sources.push_back(std::move(opened));
  };
  const auto open_named = [&](const std::string& url, bool write) {
    if (vat::is_remote(url))
      addresses.push_back(address_of({url, false, {}, {}, {}}, user, true));
    else
      open(full_name(internal::canonical("."), url), write);
  };
  for (const auto& url : instead) open_named(url, true);
  for (const auto& url : beside) open_named(url, false);
  if (instead.empty()) {
    for (const auto& entry : shrub.list().vats) {
      try {
        if (vat::is_remote(entry.url)) {
          addresses.push_back(address_of(entry, user, false));
          continue;
        }
        const auto path = full_name(shrub.root(), entry.url);
        if (!internal::is_below(path, shrub.root()) && !is_trusted(user, path))
          throw Error(Category::refused,
                      "vat " + path + ": named by VAT.json, outside of the shrub, and not trusted",
                      "shrub trust " + path + " (or --vat " + path + ")");
        open(path, entry.write);
      } catch (const Error& error) {
        // A set of vats works with what is left of it; the first failure is told if nothing is. That a clone
        // has not the publisher's own vat beside it is no news.
        if (!vat::is_remote(entry.url) && ::access(full_name(shrub.root(), entry.url).c_str(), F_OK) != 0)
          absent.push_back(failures.size());
        if (entry.write && !vats.write_failure) vats.write_failure.emplace(error);
        const bool no_vat = error.category() == Category::no_store;
        failures.emplace_back(error.category(), error.what(),
                              no_vat ? "name one that is there: --vat DIR" : error.hint());
      }
    }
  }
  if (sources.empty() && addresses.empty()) {
    // A word that is wrong is what to mend first, whatever is wrong with the others.
    for (const auto& failure : failures)
      if (failure.category() == Category::usage) throw Error(failure);
    if (!failures.empty()) throw Error(failures.front());
    throw Error(Category::usage, shrub.root() + "/VAT.json: names no vat", "name one: --vat DIR");
  }
  if (user.peers.on_note)
    for (std::size_t i = 0; i < failures.size(); ++i)
      if (std::find(absent.begin(), absent.end(), i) == absent.end()) user.peers.on_note(failures[i].what());
  if (addresses.empty()) {
    vats.source = sources.size() == 1 ? sources.front() : std::make_shared<vat::SourceSet>(sources);
    return vats;
  }
  if (user.offline) addresses.clear();
  vats.peers = std::make_shared<vat::PeerSet>(format, vats.local, std::move(addresses), user.peers);
  vats.source = vats.peers;
  return vats;
}

}  // namespace shrub
