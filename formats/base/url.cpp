#include "formats/base/url.h"

#include <algorithm>
#include <array>

#include "formats/base/numbers.h"

namespace base {
namespace {

constexpr std::array<std::string_view, 6> kSchemes{"http", "https", "ftp", "s3", "ssh", "sftp"};
/// A parameter of such a name, in any case, with anything around it.
constexpr std::array<std::string_view, 14> kSecrets{"token",  "sig",        "secret", "passw", "pwd",
                                                    "auth",   "credential", "key",    "jwt",   "session",
                                                    "policy", "code",       "cookie", "sas"};

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (auto& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

struct Parts {
  std::string_view scheme;  ///< without ://
  std::string_view user;    ///< and password
  std::string_view place;   ///< host and path
  std::string_view query;   ///< without ?
  bool has_user = false;
};

Parts split(std::string_view url) {
  Parts parts;
  const auto colon = url.find("://");
  if (colon == std::string_view::npos) {  // no URL
    parts.place = url;
    return parts;
  }
  parts.scheme = url.substr(0, colon);
  url.remove_prefix(colon + 3);
  const auto end = std::min(url.find_first_of("/?#"), url.size());
  if (const auto at = url.substr(0, end).rfind('@'); at != std::string_view::npos) {
    parts.has_user = true;
    parts.user = url.substr(0, at);
    url.remove_prefix(at + 1);
  }
  parts.place = url.substr(0, url.find_first_of("?#"));
  const auto mark = url.find('?');
  if (mark != std::string_view::npos && mark == parts.place.size()) {
    parts.query = url.substr(mark + 1);
    parts.query = parts.query.substr(0, parts.query.find('#'));
  }
  return parts;
}

bool is_secret(std::string_view parameter) {
  const auto name = lower_case(parameter.substr(0, parameter.find('=')));
  return std::any_of(kSecrets.begin(), kSecrets.end(),
                     [&](std::string_view word) { return name.find(word) != std::string::npos; });
}

bool is_ssh(std::string_view scheme) {
  const auto lower = lower_case(scheme);
  return lower == "ssh" || lower == "sftp";
}

}  // namespace

std::string without_secrets(std::string_view url, bool keep_query) {
  const auto parts = split(url);
  std::string text;
  if (!parts.scheme.empty()) text = std::string(parts.scheme) + "://";
  const auto user = parts.user.substr(0, parts.user.find(':'));
  if (is_ssh(parts.scheme) && !user.empty()) text += std::string(user) + "@";
  text += parts.place;
  if (!keep_query) return text;
  std::string kept;
  for (auto rest = parts.query; !rest.empty();) {
    const auto parameter = take_field(rest, '&');
    if (!is_secret(parameter)) kept += (kept.empty() ? "?" : "&") + std::string(parameter);
  }
  return text + kept;
}

bool holds_secret(std::string_view url) {
  const auto parts = split(url);
  if (parts.has_user && (!is_ssh(parts.scheme) || parts.user.find(':') != std::string_view::npos))
    return true;
  for (auto rest = parts.query; !rest.empty();)
    if (is_secret(take_field(rest, '&'))) return true;
  return false;
}

std::string without_secrets_in(std::string_view text) {
  std::string shown;
  while (true) {
    const auto colon = text.find("://");
    if (colon == std::string_view::npos) return shown + std::string(text);
    auto begin = colon;
    while (begin > 0 && ((text[begin - 1] >= 'a' && text[begin - 1] <= 'z') ||
                         (text[begin - 1] >= 'A' && text[begin - 1] <= 'Z') ||
                         (text[begin - 1] >= '0' && text[begin - 1] <= '9')))
      --begin;
    const auto scheme = lower_case(text.substr(begin, colon - begin));
    const auto end = std::min(text.find_first_of(" \t\r\n\"'<>`", colon), text.size());
    shown += text.substr(0, begin);
    const auto url = text.substr(begin, end - begin);
    if (std::find(kSchemes.begin(), kSchemes.end(), scheme) == kSchemes.end()) {
      shown += url;
    } else {
      // What a message puts behind a URL (`URL: why`) belongs to it no more.
      const auto tail = url.find_last_not_of(":;,.)") + 1;
      shown += without_secrets(url.substr(0, tail));
      shown += url.substr(tail);
    }
    text.remove_prefix(end);
  }
}

}  // namespace base
