// The files of a vat on another host: what to ask for, and as whom.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vat/internal/transfers.h"
#include "vat/peer_address.h"

namespace vat::internal {

/// Makes transfers for the files of one vat. Immutable, so any thread.
class Host {
 public:
  /// Throws usage for a URL that names no vat elsewhere, refused for one that could be taken for an option.
  explicit Host(const PeerAddress& address);

  enum class Kind : std::uint8_t { http, s3, sftp };
  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  /// As messages name it: without user and password.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] bool can_write() const noexcept { return kind_ != Kind::http; }
  [[nodiscard]] bool can_list() const noexcept { return kind_ != Kind::http; }

  /// `file` is relative to the vat: cache/packs. The caller adds what is to be called. What lies in cache/ a
  /// vat can do without: that a reader may not have it (403) is as good as absent. Not so if it is `needed`.
  [[nodiscard]] Transfer get(const std::string& file, const FileRange& range, bool needed = false) const;
  struct Listed {
    std::vector<std::string> names;  ///< in order; of the last page
    bool more = false;               ///< there are others after the last
    std::string token;               ///< with that the host goes on; may be empty
    bool last_is_directory = false;
  };
  /// Names in a directory of the vat, those after the page `before` (none: the first), as the host gives
  /// them; see parse_list().
  [[nodiscard]] Transfer list(const std::string& directory, const Listed& before) const;
  /// Throws corrupt.
  [[nodiscard]] Listed parse_list(const std::string& directory, std::string_view answer) const;
  /// Whether it is told how long a file is when its end is asked for.
  [[nodiscard]] bool knows_end() const noexcept { return kind_ != Kind::sftp; }
  /// How many reads at a time are worth it.
  [[nodiscard]] unsigned parallel_reads() const noexcept { return kind_ == Kind::sftp ? 2 : 8; }

  /// The command that runs `vat` there with these words, on this vat; empty if this is no host for that, or
  /// one the user has not consented to.
  [[nodiscard]] std::vector<std::string> ssh_command(const std::vector<std::string>& words) const;

  /// The caller adds the body. Without `replace` the host is asked not to touch a file that is there, as far
  /// as it can be.
  [[nodiscard]] Transfer put(const std::string& file, bool replace) const;
  /// s3: parts of large objects. `query`: as it is signed, parameters in order, percent-encoded.
  [[nodiscard]] Transfer put_part(const std::string& file, const std::string& query) const;
  [[nodiscard]] Transfer post(const std::string& file, const std::string& query,
                              const std::string& body) const;
  [[nodiscard]] Transfer remove(const std::string& file, const std::string& query) const;

 private:
  [[nodiscard]] Transfer make(const std::string& file) const;

  PeerAddress address_;
  Kind kind_ = Kind::http;
  std::string name_;
  std::string origin_;              ///< URL of the host, or of the bucket, without '/' at the end
  std::string path_;                ///< of the vat there, as it is: decoded; begins and ends in '/'
  std::string host_, port_, user_;  ///< sftp
};

}  // namespace vat::internal
