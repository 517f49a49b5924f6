#include "vat/internal/host.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <functional>
#include <set>
#include <utility>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "formats/base/url.h"

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

/// A parameter of a query.
std::string parameter(const std::string& text) {
  std::string result;
  for (const char c : base::percent_encoded(text)) result += c == '/' ? "%2F" : std::string(1, c);
  return result;
}

/// Text of an XML document: the five entities, and numbers of characters in ASCII.
std::string xml_text(std::string_view text) {
  constexpr std::pair<std::string_view, char> kEntities[] = {
      {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
  std::string result;
  while (!text.empty()) {
    const auto* entity = std::find_if(std::begin(kEntities), std::end(kEntities),
                                      [&](const auto& known) { return text.starts_with(known.first); });
    const auto end = text.find(';');
    if (entity != std::end(kEntities)) {
      result += entity->second;
      text.remove_prefix(entity->first.size());
    } else if (unsigned code = 0; text.starts_with("&#") && end != std::string_view::npos && end <= 6 &&
                                  std::sscanf(std::string(text.substr(2, end - 2)).c_str(),
                                              text[2] == 'x' ? "x%x" : "%u", &code) == 1 &&
                                  code < 128) {
      result += static_cast<char>(code);
      text.remove_prefix(end + 1);
    } else {
      result += text.front();
      text.remove_prefix(1);
    }
  }
  return result;
}

}  // namespace

Host::Host(const PeerAddress& address) : address_(address) {
  const auto& url = address.url;
  if (url.find(":///") != std::string::npos)
    throw Error(Category::usage, base::without_secrets(url) + ": names no host");
  const auto authority =
      url.substr(url.find("://") + 3, url.find('/', url.find("://") + 3) - url.find("://") - 3);
  if (authority.starts_with('-') || authority.find("@-") != std::string::npos)
    throw Error(Category::refused, base::without_secrets(url) + ": begins like an option");
  Url parts(base::without_secrets(url), url);
  const auto scheme = parts.part(CURLUPART_SCHEME), host = parts.part(CURLUPART_HOST),
             user = parts.part(CURLUPART_USER);
  if (host.empty()) throw Error(Category::usage, base::without_secrets(url) + ": names no host");
  for (const auto part : {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_QUERY, CURLUPART_FRAGMENT}) {
    if (part == CURLUPART_USER && (scheme == "ssh" || scheme == "sftp")) continue;
    if (!parts.part(part).empty())
      throw Error(Category::usage,
                  scheme + "://" + host + ": a vat's URL has no password, query or fragment");
  }
  name_ = parts.part(CURLUPART_URL);
  while (name_.ends_with('/')) name_.pop_back();
  // Kept as it is, and encoded once, where a request is made.
  const auto written = parts.part(CURLUPART_PATH);
  path_ = with_slash(written.size() <= 1 ? "/" : parts.part(CURLUPART_PATH, CURLU_URLDECODE));
  if (path_ == "/" && written.size() > 1)
    throw Error(Category::usage, name_ + ": its path has bytes that no name has");
  if (scheme == "http" || scheme == "https") {
    parts.set(CURLUPART_PATH, "/");
    origin_ = parts.part(CURLUPART_URL);
  } else if (scheme == "s3") {
    kind_ = Kind::s3;
    if (address_.region.empty()) address_.region = "us-east-1";
    auto endpoint =
        address_.endpoint.empty() ? "https://s3." + address_.region + ".amazonaws.com" : address_.endpoint;
    if (!endpoint.starts_with("http://") && !endpoint.starts_with("https://"))
      throw Error(Category::usage, url + ": its endpoint is no http or https URL");
    if (base::holds_secret(endpoint) || endpoint.find_first_of("?#") != std::string::npos)
      throw Error(Category::usage, url + ": its endpoint has a login, query or fragment",
                  "logins are those of ~/.aws and the AWS variables");
    for (const char c : address_.region)
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-')
        throw Error(Category::usage, url + ": '" + address_.region + "' is no region");
    origin_ = with_slash(endpoint) + host;
  } else if (scheme == "ssh" || scheme == "sftp") {
    kind_ = Kind::sftp;
    if (address_.known_hosts.empty())
      throw Error(Category::refused, url + ": there is no list of known hosts");
    host_ = parts.part(CURLUPART_HOST);
    port_ = parts.part(CURLUPART_PORT);
    user_ = parts.part(CURLUPART_USER, CURLU_URLDECODE);
    parts.set(CURLUPART_SCHEME, "sftp");
    parts.set(CURLUPART_PATH, "/");
    origin_ = parts.part(CURLUPART_URL);
  } else {
    throw Error(Category::usage, name_ + ": not a kind of vat this program knows (http, https, s3, ssh)");
  }
  while (origin_.ends_with('/')) origin_.pop_back();
}

Transfer Host::make(const std::string& file) const {
  Transfer transfer;
  transfer.url = origin_ + base::percent_encoded(path_ + file);
  transfer.may_be_local = address_.may_be_local;
  if (kind_ == Kind::sftp) {
    transfer.ssh_private_key = address_.ssh_private_key;
    transfer.ssh_known_hosts = address_.known_hosts;
    return transfer;
  }
  transfer.user = address_.user;
  transfer.password = address_.password;
  if (kind_ == Kind::s3) {
    transfer.is_s3 = true;
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

Transfer Host::get(const std::string& file, const FileRange& range, bool needed) const {
  auto transfer = make(file);
  transfer.range = range;
  transfer.forbidden_is_absent =
      !needed && (transfer.forbidden_is_absent || (kind_ != Kind::sftp && file.starts_with("cache/")));
  return transfer;
}

Transfer Host::list(const std::string& directory, const Listed& before) const {
  if (kind_ == Kind::sftp) {
    auto transfer = make(directory + "/");
    transfer.list_directory = true;
    return transfer;
  }
  if (kind_ != Kind::s3) throw Error(Category::usage, name_ + ": a static host does not list directories");
  auto transfer = make({});
  const auto prefix = (path_ + directory + "/").substr(1);
  // What is signed has the parameters in the order of their names.
  transfer.url = origin_ + "?" +
                 (before.token.empty() ? "" : "continuation-token=" + parameter(before.token) + "&") +
                 "delimiter=%2F&list-type=2&prefix=" + parameter(prefix);
  // Keys in a directory come after its name and a slash: behind them all is what begins with the last
  // character.
  if (before.token.empty() && !before.names.empty())
    transfer.url += "&start-after=" + parameter(prefix + before.names.back() +
                                                (before.last_is_directory ? "/\xf4\x8f\xbf\xbf" : ""));
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
  // Of the XML only keys and whether there are more matter.
  if (answer.find("<ListBucketResult") == std::string_view::npos)
    throw Error(Category::corrupt, "not a list of a bucket");
  if (answer.find("</ListBucketResult>") == std::string_view::npos)
    throw Error(Category::corrupt, "is cut off");
  const auto prefix = (path_ + directory + "/").substr(1);
  const auto element_at = [&](std::size_t at) {
    return xml_text(answer.substr(at, answer.find('<', at) - at));
  };
  const auto for_each = [&](std::string_view tag, const std::function<void(std::string)>& visit) {
    for (auto at = answer.find(tag); at != std::string_view::npos; at = answer.find(tag, at)) {
      at += tag.size();
      auto key = element_at(at);
      if (!key.starts_with(prefix))
        throw Error(Category::corrupt,
                    "lists '" + key.substr(0, 200) + "', which does not begin as asked for");
      visit(key.substr(prefix.size()));
    }
  };
  std::set<std::string> directories;
  for_each("<Key>", [&](std::string name) {
    if (is_name(name)) listed.names.push_back(std::move(name));
  });
  const auto whole = answer;
  constexpr std::string_view kGroup = "<CommonPrefixes>", kGroupEnd = "</CommonPrefixes>";
  for (auto at = whole.find(kGroup); at != std::string_view::npos; at = whole.find(kGroup, at + 1)) {
    answer = whole.substr(at, whole.find(kGroupEnd, at) - at);  // of several; blanks stand where they like
    for_each("<Prefix>", [&](std::string name) {
      if (name.ends_with('/')) name.pop_back();
      if (!is_name(name)) return;
      directories.insert(name);
      listed.names.push_back(std::move(name));
    });
  }
  answer = whole;
  // As a bucket orders them: directories by their names with a slash.
  const auto key_of = [&](const std::string& name) { return directories.contains(name) ? name + "/" : name; };
  std::sort(listed.names.begin(), listed.names.end(),
            [&](const auto& a, const auto& b) { return key_of(a) < key_of(b); });
  constexpr std::string_view kTruncated = "<IsTruncated>";
  if (const auto at = answer.find(kTruncated); at != std::string_view::npos) {
    std::string value;
    for (const char c : element_at(at + kTruncated.size()))
      if (c > ' ') value += static_cast<char>(c | 0x20);
    if (value != "true" && value != "false") throw Error(Category::corrupt, "does not say whether it is all");
    listed.more = value == "true";
  }
  constexpr std::string_view kToken = "<NextContinuationToken>";
  if (const auto at = answer.find(kToken); at != std::string_view::npos)
    listed.token = element_at(at + kToken.size());
  listed.more = listed.more || !listed.token.empty();
  listed.last_is_directory = !listed.names.empty() && directories.contains(listed.names.back());
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
  transfer.url = origin_ + base::percent_encoded(path_ + draft);
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
