// The vats of a shrub: which of those that VAT.json names may be used, and all of them as one source.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/error.h"
#include "shrub/shrub.h"
#include "vat/blob_source.h"
#include "vat/peer_address.h"
#include "vat/peer_set.h"
#include "vat/vat.h"

namespace shrub {

/// What the user decided outside of any repository.
struct UserSettings {
  std::string config_dir;  ///< holds trust.json; empty: nothing is trusted and nothing can be
  vat::PeerOptions peers;  ///< the cache is for indexes of vats that cannot be written, too
  /// Adds what the user has to log in with. Called only for vats the user named or trusts. May be empty.
  std::function<void(vat::PeerAddress&)> add_credentials;
  bool offline = false;  ///< nobody is asked: what is not on this disk is not there
};

/// The vats of a shrub, opened.
struct Vats {
  std::shared_ptr<vat::BlobSource> source;       ///< all of them as one; shared with `writable` and `peers`
  std::vector<std::shared_ptr<vat::Vat>> local;  ///< those on this disk
  std::shared_ptr<vat::Vat> writable;            ///< where adds go; nullptr if there is none
  std::shared_ptr<vat::PeerSet> peers;           ///< `source`, if some of them are elsewhere; else nullptr
  std::optional<base::Error> write_failure;      ///< why a vat marked "write" could not be opened
};

/// Opens the vats of the list, or of `instead` (what --vat named) if that is not empty, and those of `beside`
/// (--from). Without the user's consent what only a repository file names is not used if it is a local path
/// outside the shrub or a host that wants a login (refused, with a hint), gets no credentials, and cannot
/// lead to loopback or link-local addresses. Unusable vats are noted and left out as long as one is left;
/// those elsewhere are not asked before something is missing.
[[nodiscard]] Vats open_vats(const Shrub& shrub, const std::vector<std::string>& instead,
                             const std::vector<std::string>& beside, const UserSettings& user);

/// How consent names a vat: the absolute path of a local one, else its URL without a slash at the end. Throws
/// usage for what is neither.
[[nodiscard]] std::string full_name(const std::string& root, const std::string& url);

/// Whether the user consented to the vat of this full name; and the consent.
[[nodiscard]] bool is_trusted(const UserSettings& user, const std::string& name);
void trust(const UserSettings& user, const std::string& name);

/// Paths on file systems whose times the user takes for the content's, see base::FileSystems; and the
/// consent. `config_dir`: as UserSettings has it.
[[nodiscard]] std::vector<std::string> trusted_times(const std::string& config_dir);
/// Whether trust.json has a URL with a login, as programs before this one let in.
[[nodiscard]] bool has_secret_trusted(const std::string& config_dir);
void trust_times(const std::string& config_dir, const std::string& path);

}  // namespace shrub
