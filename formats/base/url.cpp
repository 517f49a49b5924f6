#include "formats/base/url.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "formats/base/numbers.h"
#include "formats/base/object_id.h"

namespace base {
namespace {

constexpr std::array<std::string_view, 6> kSchemes{"http", "https", "ftp", "s3", "ssh", "sftp"};
/// A parameter of such a name, in any case, with anything around it.
constexpr std::array<std::string_view, 19> kSecrets{
    "token", "sig",     "secret", "pass", "pwd",    "auth", "credential", "key", "jwt", "bearer",
    "hmac",  "session", "policy", "code", "cookie", "sas",  "ticket",     "hdn", "md5"};
constexpr int kMaxNesting = 4;  ///< of URLs in the queries of URLs

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (auto& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

struct Parts {
  std::string_view scheme;    ///< without ://
  std::string_view user;      ///< and password
  std::string_view place;     ///< host and path
  std::string_view query;     ///< without ?
  std::string_view fragment;  ///< without #
  bool has_user = false;
};

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_of_scheme(char c) {
  return is_letter(c) || (c >= '0' && c <= '9') || c == '+' || c == '.' || c == '-';
}

bool is_scheme(std::string_view text) {
  return !text.empty() && is_letter(text.front()) && std::all_of(text.begin(), text.end(), is_of_scheme);
}

bool is_number(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// Where the login that an authority begins with ends, with its `@`; 0: there is none. A password may hold
/// slashes, though none should: then what stands before the first is no port.
std::size_t end_of_login(std::string_view rest) {
  const auto end = std::min(rest.find_first_of("/?#"), rest.size());
  if (const auto at = rest.substr(0, end).rfind('@'); at != std::string_view::npos) return at + 1;
  const auto colon = rest.substr(0, end).find(':');
  const auto at = rest.rfind('@');
  const bool is_password = !rest.starts_with('[') && colon != std::string_view::npos &&
                           at != std::string_view::npos &&
                           !is_number(rest.substr(colon + 1, end - colon - 1));
  return is_password ? at + 1 : 0;
}

Parts split(std::string_view url) {
  Parts parts;
  const auto colon = url.find(':');
  const bool is_url = colon != std::string_view::npos && is_scheme(url.substr(0, colon)) &&
                      url.substr(colon + 1).starts_with('/');
  if (is_url) {
    parts.scheme = url.substr(0, colon);
    url.remove_prefix(colon + 1);
    // What reads URLs takes one to three of them.
    url.remove_prefix(std::min(url.find_first_not_of('/'), url.size()));
  }
  // Without a scheme only user:password@host is a login.
  const auto login = end_of_login(url);
  if (login > 0 && (is_url || (url.substr(0, login).find(':') != std::string_view::npos &&
                               !url.starts_with('/') && !url.starts_with('.')))) {
    parts.has_user = true;
    parts.user = url.substr(0, login - 1);
    url.remove_prefix(login);
  }
  parts.place = url.substr(0, url.find_first_of("?#"));
  if (!is_url) {
    parts.place = url;
    return parts;
  }
  url.remove_prefix(parts.place.size());
  if (!url.empty() && url.front() == '?') {
    parts.query = url.substr(1, url.find('#') - 1);
    url.remove_prefix(std::min(url.find('#'), url.size()));
  }
  if (!url.empty()) parts.fragment = url.substr(1);
  return parts;
}

std::string decoded(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte =
        text[i] == '%' && i + 2 < text.size() ? from_hex(lower_case(text.substr(i + 1, 2))) : std::nullopt;
    if (byte) {
      plain += static_cast<char>((*byte)[0]);
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

bool holds_secret(std::string_view url, int depth);

/// A parameter, or one in its value, which may be a URL.
bool is_secret(std::string_view parameter, int depth) {
  const auto text = decoded(parameter);
  const auto equals = text.find('=');
  const auto name = lower_case(text.substr(0, equals));
  if (std::any_of(kSecrets.begin(), kSecrets.end(),
                  [&](std::string_view word) { return name.find(word) != std::string::npos; }))
    return true;
  return equals != std::string::npos && depth < kMaxNesting &&
         holds_secret(text.substr(equals + 1), depth + 1);
}

/// Calls `visit` with each parameter of a query, whatever stands between them.
template <typename Visit>
void for_each_parameter(std::string_view query, Visit&& visit) {
  while (!query.empty()) {
    const auto end = std::min(query.find_first_of("&;?"), query.size());
    if (end > 0) visit(query.substr(0, end));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
}

bool has_secret_parameter(std::string_view query, int depth) {
  bool found = false;
  for_each_parameter(query,
                     [&](std::string_view parameter) { found = found || is_secret(parameter, depth); });
  return found;
}

bool is_ssh(std::string_view scheme) {
  const auto lower = lower_case(scheme);
  return lower == "ssh" || lower == "sftp";
}

bool holds_secret(std::string_view url, int depth) {
  const auto parts = split(url);
  if (parts.has_user && (!is_ssh(parts.scheme) || parts.user.find(':') != std::string_view::npos))
    return true;
  return has_secret_parameter(parts.query, depth) || has_secret_parameter(parts.fragment, depth);
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
  for_each_parameter(parts.query, [&](std::string_view parameter) {
    if (!is_secret(parameter, 0)) kept += (kept.empty() ? "?" : "&") + std::string(parameter);
  });
  return text + kept;
}

bool holds_secret(std::string_view url) {
  return holds_secret(url, 0);
}

std::string without_secrets_in(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n", kAround = ":;,.)('\"<>`[]";
  std::string shown;
  while (!text.empty()) {
    // Word by word. What a message puts around a URL, or before it (`--vat=URL`), does not belong to it.
    const auto gap = std::min(text.find_first_not_of(kBlanks), text.size());
    const auto end = std::min(text.find_first_of(kBlanks, gap), text.size());
    auto begin = std::min(text.find_first_not_of(kAround, gap), end);
    auto colon = text.substr(0, end).find(":/", begin);
    auto start = std::min(colon, end);
    while (start > begin && colon != std::string_view::npos && is_of_scheme(text[start - 1])) --start;
    const bool is_url = colon != std::string_view::npos && is_scheme(text.substr(start, colon - start));
    if (is_url) begin = start;
    const auto word = text.substr(begin, end - begin);
    const auto tail = word.find_last_not_of(kAround) + 1;
    const auto url = word.substr(0, tail);
    const bool is_known = is_url && std::find(kSchemes.begin(), kSchemes.end(),
                                              lower_case(url.substr(0, url.find(':')))) != kSchemes.end();
    shown += text.substr(0, begin);
    shown += is_known || holds_secret(url) ? without_secrets(url) : std::string(url);
    shown += word.substr(tail);
    text.remove_prefix(end);
  }
  return shown;
}

std::string percent_encoded(std::string_view path) {
  std::string result;
  for (const char c : path) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 ||
        std::string_view("-._~/").find(c) != std::string_view::npos) {
      result += c;
    } else {
      constexpr std::string_view kHex = "0123456789ABCDEF";
      const auto byte = static_cast<unsigned char>(c);
      result += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return result;
}

}  // namespace base
