#include "vat/internal/host.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"

namespace vat {

bool is_remote(std::string_view url) {
  const auto scheme = url.find("://");
  return scheme != std::string_view::npos && scheme > 0 && url.substr(0, scheme) != "file" &&
         url.substr(0, scheme).find('/') == std::string_view::npos;
}

namespace internal {
namespace {

using base::Category;
using base::Error;

using CurlUrl = base::CPtr<CURLU, curl_url_cleanup>;

class Url {
 public:
  Url(const std::string& what, const std::string& text) : handle_(curl_url()) {
    // ssh is no scheme of libcurl's; it need not be for taking the URL apart.
    const auto code = curl_url_set(handle_.get(), CURLUPART_URL, text.c_str(), CURLU_NON_SUPPORT_SCHEME);
    if (code != CURLUE_OK) throw Error(Category::usage, what + ": not a URL: " + curl_url_strerror(code));
  }
  [[nodiscard]] std::string part(CURLUPart which, unsigned flags = 0) const {
    char* text = nullptr;
    if (curl_url_get(handle_.get(), which, &text, flags) != CURLUE_OK || text == nullptr) return {};
    const base::CPtr<char, curl_free> owned(text);
    return text;
  }
  void set(CURLUPart which, const char* value) {
    (void)curl_url_set(handle_.get(), which, value, CURLU_NON_SUPPORT_SCHEME);
  }

 private:
  CurlUrl handle_;
};

std::string with_slash(std::string text) {
  if (!text.ends_with('/')) text += '/';
  return text;
}

}  // namespace

Host::Host(const PeerAddress& address) : address_(address) {
  const auto& url = address.url;
  const auto authority =
      url.substr(url.find("://") + 3, url.find('/', url.find("://") + 3) - url.find("://") - 3);
  if (authority.starts_with('-') || authority.find("@-") != std::string::npos)
    throw Error(Category::refused, url + ": begins like an option");
  Url parts(url, url);
  const auto scheme = parts.part(CURLUPART_SCHEME), host = parts.part(CURLUPART_HOST),
             user = parts.part(CURLUPART_USER);
  if (host.empty()) throw Error(Category::usage, url + ": names no host");
  for (const auto part : {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_QUERY, CURLUPART_FRAGMENT}) {
    if (part == CURLUPART_USER && scheme == "ssh") continue;
    if (!parts.part(part).empty())
      throw Error(Category::usage,
                  scheme + "://" + host + ": a vat's URL has no password, query or fragment");
  }
  name_ = parts.part(CURLUPART_URL);
  while (name_.ends_with('/')) name_.pop_back();
  if (scheme == "http" || scheme == "https") {
    base_ = with_slash(name_);
  } else if (scheme == "s3") {
    kind_ = Kind::s3;
    if (address_.region.empty()) address_.region = "us-east-1";
    auto endpoint =
        address_.endpoint.empty() ? "https://s3." + address_.region + ".amazonaws.com" : address_.endpoint;
    if (!endpoint.starts_with("http://") && !endpoint.starts_with("https://"))
      throw Error(Category::usage, url + ": its endpoint is no http or https URL");
    for (const char c : address_.region)
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-')
        throw Error(Category::usage, url + ": '" + address_.region + "' is no region");
    base_ = with_slash(endpoint) + host;
    bucket_end_ = base_.size();
    base_ = with_slash(base_ + parts.part(CURLUPART_PATH));
  } else if (scheme == "ssh" || scheme == "sftp") {
    kind_ = Kind::sftp;
    if (address_.known_hosts.empty())
      throw Error(Category::refused, url + ": there is no list of known hosts");
    parts.set(CURLUPART_SCHEME, "sftp");
    base_ = with_slash(parts.part(CURLUPART_URL));
    path_ = with_slash(parts.part(CURLUPART_PATH, CURLU_URLDECODE));
    host_ = parts.part(CURLUPART_HOST);
    port_ = parts.part(CURLUPART_PORT);
    user_ = parts.part(CURLUPART_USER, CURLU_URLDECODE);
  } else {
    throw Error(Category::usage, url + ": not a kind of vat this program knows (http, https, s3, ssh)");
  }
}

Transfer Host::make(const std::string& file) const {
  Transfer transfer;
  transfer.url = base_ + percent_encoded(file);
  transfer.may_be_local = address_.may_be_local;
  if (kind_ == Kind::sftp) {
    transfer.ssh_private_key = address_.ssh_private_key;
    transfer.ssh_known_hosts = address_.known_hosts;
    return transfer;
  }
  transfer.user = address_.user;
  transfer.password = address_.password;
  if (kind_ == Kind::s3) {
    transfer.may_redirect = false;  // what is signed is for this host only
    // Who may not list a bucket is not told what is not in it.
    transfer.forbidden_is_absent = address_.user.empty();
    if (!address_.user.empty()) {
      transfer.signature = "aws:amz:" + address_.region + ":s3";
      transfer.headers.emplace_back("x-amz-content-sha256: UNSIGNED-PAYLOAD");
      if (!address_.token.empty()) transfer.headers.push_back("x-amz-security-token: " + address_.token);
    }
  }
  return transfer;
}

std::vector<std::string> Host::ssh_command(const std::vector<std::string>& words) const {
  const bool is_plain = address_.known_hosts.find_first_of("\"\n") == std::string::npos;
  if (kind_ != Kind::sftp || !address_.may_be_local || !is_plain) return {};
  std::vector<std::string> command{"ssh",
                                   "-oBatchMode=yes",
                                   "-oConnectTimeout=5",
                                   "-oServerAliveInterval=2",
                                   "-oServerAliveCountMax=2",
                                   "-oStrictHostKeyChecking=yes",
                                   "-oUserKnownHostsFile=\"" + address_.known_hosts + "\""};
  if (!address_.ssh_private_key.empty()) command.insert(command.end(), {"-i", address_.ssh_private_key});
  if (!port_.empty()) command.insert(command.end(), {"-p", port_});
  if (!user_.empty()) command.insert(command.end(), {"-l", user_});
  const bool is_v6 = host_.starts_with('[');
  const auto quoted = [](const std::string& word) {
    std::string text = " '";
    for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
    return text + "'";
  };
  std::string line = "vat";
  for (const auto& word : words) line += quoted(word);
  line += " --vat" + quoted(path_);
  command.insert(command.end(), {"--", is_v6 ? host_.substr(1, host_.size() - 2) : host_, line});
  return command;
}

Transfer Host::get(const std::string& file, const FileRange& range) const {
  auto transfer = make(file);
  transfer.range = range;
  return transfer;
}

Transfer Host::list(const std::string& directory, const std::string& after) const {
  if (kind_ == Kind::sftp) {
    auto transfer = make(directory + "/");
    transfer.list_directory = true;
    return transfer;
  }
  if (kind_ != Kind::s3) throw Error(Category::usage, name_ + ": a static host does not list directories");
  // What is signed has the parameters in the order of their names.
  auto transfer = make({});
  const auto bucket = base_.substr(0, bucket_end_);
  const auto prefix = base_.size() > bucket_end_ + 1 ? base_.substr(bucket_end_ + 1) : std::string();
  const auto encoded = [](const std::string& text) {
    std::string result;
    for (const char c : percent_encoded(text)) result += c == '/' ? "%2F" : std::string(1, c);
    return result;
  };
  transfer.url = bucket + "?delimiter=%2F&list-type=2&prefix=" + encoded(prefix + directory + "/") +
                 (after.empty() ? "" : "&start-after=" + encoded(prefix + directory + "/" + after));
  return transfer;
}

namespace {

/// Whether a name that a host lists can be that of a file or directory.
bool is_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == name.npos;
}

}  // namespace

Host::Listed Host::parse_list(const std::string& directory, std::string_view answer) const {
  Listed listed;
  if (kind_ == Kind::sftp) {
    while (!answer.empty()) {
      const auto line = base::take_field(answer, '\n');
      if (is_name(line)) listed.names.emplace_back(line);
    }
    return listed;
  }
  // Of the XML only keys and whether there are more matter; names of files of a vat have nothing to escape.
  if (answer.find("<ListBucketResult") == std::string_view::npos)
    throw Error(Category::corrupt, "not a list of a bucket");
  const auto below = "/" + directory + "/";
  listed.more = answer.find("<IsTruncated>true<") != std::string_view::npos;
  for (auto at = answer.find("<Key>"); at != std::string_view::npos; at = answer.find("<Key>", at)) {
    at += 5;
    const auto key = "/" + std::string(answer.substr(at, answer.find('<', at) - at));
    const auto begin = key.find(below);
    if (begin == std::string::npos) continue;
    const auto name = key.substr(begin + below.size());
    if (is_name(name)) listed.names.push_back(name);
  }
  // Directories.
  for (auto at = answer.find("<CommonPrefixes><Prefix>"); at != std::string_view::npos;
       at = answer.find("<CommonPrefixes><Prefix>", at)) {
    at += 24;
    auto name = std::string(answer.substr(at, answer.find('<', at) - at));
    if (name.ends_with('/')) name.pop_back();
    name = name.substr(name.rfind('/') + 1);
    if (is_name(name)) listed.names.push_back(name);
  }
  std::sort(listed.names.begin(), listed.names.end());
  return listed;
}

Transfer Host::put(const std::string& file, bool replace) const {
  auto transfer = make(file);
  transfer.method = "PUT";
  transfer.sends_body = true;
  if (kind_ == Kind::s3 || kind_ == Kind::http) return transfer;
  // Under another name first; then the directories, and the name.
  const auto quoted = [](const std::string& path) {
    std::string text = "\"";
    for (const char c : path) text += (c == '"' || c == '\\' ? "\\" : "") + std::string(1, c);
    return text + "\"";
  };
  const auto draft = "tmp/.vat-push-" + base::random_name();
  transfer.url = base_ + draft;
  for (auto slash = file.find('/'); slash != std::string::npos; slash = file.find('/', slash + 1))
    transfer.ssh_after.push_back("*mkdir " + quoted(path_ + file.substr(0, slash)));
  if (replace) transfer.ssh_after.push_back("*rm " + quoted(path_ + file));
  // Without replacing, a file that is there makes the first fail, and what was sent goes.
  transfer.ssh_after.push_back((replace ? "rename " : "*rename ") + quoted(path_ + draft) + " " +
                               quoted(path_ + file));
  if (!replace) transfer.ssh_after.push_back("*rm " + quoted(path_ + draft));
  return transfer;
}

Transfer Host::put_part(const std::string& file, const std::string& query) const {
  auto transfer = put(file, true);
  transfer.url += "?" + query;
  return transfer;
}

Transfer Host::post(const std::string& file, const std::string& query, const std::string& body) const {
  auto transfer = make(file);
  transfer.method = "POST";
  transfer.url += "?" + query;
  transfer.sends_body = true;
  base::append(transfer.body, base::as_bytes(body));
  return transfer;
}

Transfer Host::remove(const std::string& file, const std::string& query) const {
  auto transfer = make(file);
  transfer.method = "DELETE";
  if (!query.empty()) transfer.url += "?" + query;
  return transfer;
}

}  // namespace internal
}  // namespace vat
