// URLs: how a path is written in one, and what of one is nobody's business: user and password, and what in
// its query lets somebody in.
#pragma once

#include <string>
#include <string_view>

namespace base {

/// As it may be kept and shown: scheme, host and path. `keep_query`: and the query, but for parameters whose
/// names speak of secrets (token, signature, key, …). The user of an ssh or sftp URL stays; it is no secret.
///
///     without_secrets("https://bob:s3cret@host/file?version=2&token=abc", true) ==
///     "https://host/file?version=2"
[[nodiscard]] std::string without_secrets(std::string_view url, bool keep_query = false);

/// Whether a URL has a password, a user where that is a secret, or a parameter whose name speaks of one.
[[nodiscard]] bool holds_secret(std::string_view url);

/// A text for people or a log, in which each URL of http, https, ftp, s3, ssh and sftp is as
/// without_secrets() leaves it.
[[nodiscard]] std::string without_secrets_in(std::string_view text);

/// What is not unreserved in a URL as %XX; '/' stays.
[[nodiscard]] std::string percent_encoded(std::string_view path);

}  // namespace base
