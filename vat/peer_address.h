// Where a vat on another host is, and what the user allows and knows for it.
#pragma once

#include <string>
#include <string_view>

namespace vat {

/// Credentials and consent come from the user, never from a repository.
struct PeerAddress {
  std::string url;               ///< http://, https://, s3://bucket/prefix, ssh://[user@]host[:port]/path
  std::string endpoint, region;  ///< s3: where the bucket is; empty: Amazon's, us-east-1
  bool may_be_local = false;     ///< loopback and link-local addresses are allowed
  std::string user, password, token;         ///< HTTP: basic; s3: key id, secret and session token
  std::string ssh_private_key, known_hosts;  ///< files; empty: none
};

/// Whether a URL names a vat on another host: it has a scheme, and not `file`.
[[nodiscard]] bool is_remote(std::string_view url);

}  // namespace vat
