// What the user's environment says about vats on other hosts: logins, limits, where what was fetched is kept.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "cli/output.h"
#include "formats/base/scratch.h"
#include "vat/peer_address.h"
#include "vat/peer_set.h"
#include "vat/vat.h"

namespace cli {

[[nodiscard]] Option limit_rate_option();
[[nodiscard]] Option retry_for_option();
/// --limit-rate, --offline, --retry-for and --from, for commands that may fetch.
[[nodiscard]] std::vector<Option> fetch_options();

/// From --limit-rate, --jobs, $VAT_CACHE_DIR, $VAT_CACHE_SIZE, and $CURL_CA_BUNDLE or $SSL_CERT_FILE.
/// `output` outlives it.
[[nodiscard]] vat::PeerOptions peer_options(const Call& call, Output& output);

/// Adds what the user has to log in with: for s3 what the variables and files of the AWS tools say
/// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION,
/// AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL; ~/.aws), for ssh the key and the known hosts of ~/.ssh (or
/// $VAT_SSH_KEY and $VAT_SSH_KNOWN_HOSTS). Only for vats the user named or trusts.
void add_credentials(vat::PeerAddress& address);

/// Where a vat that the user named is, with what logs in there.
[[nodiscard]] vat::PeerAddress address_of(const std::string& url);

/// Runs a verb of `vat` on the host where that vat is: `words`, and of `options` and --json, --quiet,
/// --verbose and --jobs what `call` has. Returns its exit code; its output is as ours. Errors as
/// vat::run_there().
int run_there(const std::string& url, std::vector<std::string> words, const std::vector<Option>& options,
              const Call& call, Output& output, std::string_view input = {});

/// A number of bytes, as 500, 64k, 20M, 1.5G or 2T. Throws usage, naming `what`.
[[nodiscard]] std::uint64_t parse_size(const std::string& what, const std::string& text);

/// Where scratch may lie, the best first: $TMPDIR, the cache directory; /tmp if neither is named.
[[nodiscard]] std::vector<base::ScratchPlace> scratch_places();
/// … and in the wedge at `path`.
[[nodiscard]] std::vector<base::ScratchPlace> scratch_places(const std::string& wedge);

/// A directory that goes with this object.
class Scratch {
 public:
  /// In the first place that can be written.
  Scratch();
  explicit Scratch(const base::ScratchPlace& place);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// The vat in a directory that bytes are copied to. It is made if there is none there; for a dry run in
/// scratch.
class LocalTarget {
 public:
  LocalTarget(const std::string& path, const vat::BlobSource& like, const chunker::Parameters& parameters,
              bool dry_run, const vat::PeerOptions& options);
  [[nodiscard]] vat::Vat& vat() const noexcept { return *vat_; }

 private:
  std::optional<Scratch> scratch_;
  std::unique_ptr<vat::Vat> vat_;
};

}  // namespace cli
