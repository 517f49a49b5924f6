// Vrefs that somebody vouches for: X.vref.sig beside X.vref, by keys of SSH. docs/formats/signature.md
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "shrub/shrub.h"

namespace shrub {

inline constexpr const char* kSignatureSuffix = ".vref.sig";

/// What is signed.
struct Statement {
  std::string name;           ///< of the shrub, '/', and the entry
  std::uint64_t version = 0;  ///< goes up with each signature of that name
  std::string digest;         ///< SHA-256 of the vref's text, hex
  friend bool operator==(const Statement&, const Statement&) = default;
};
[[nodiscard]] std::string to_text(const Statement& statement);

/// A statement and the armored signature below it.
struct SignatureText {
  Statement statement;
  std::string armored;
};
/// Throws refused unless it is just what to_text() writes, and what may be a signature.
[[nodiscard]] SignatureText parse_signature(const std::string& text);

/// Where the user keeps who may sign, and what was seen.
struct SignerSettings {
  std::string config_dir;  ///< of allowed_signers, as ssh-keygen(1) has it, and of signatures.json
  std::string scratch;     ///< a directory for what ssh-keygen has to read, made if it is not there
};

/// Signs an entry: `key` is a private key, or a public one whose private one the agent has. The version is
/// one above that of the signature that is there, and above all that were seen. Throws not_found for the
/// vref; local if ssh-keygen is not there or will not.
Statement sign(const Shrub& shrub, const std::string& entry, const std::string& shrub_name,
               const std::string& key);

struct SignedBy {
  Statement statement;
  std::string signer;  ///< principal
};
/// Throws refused if there is no signature, or it is not by an allowed signer, of this text and entry, or is
/// of a lower version than one seen before, or of another name than the entry had; usage if there is no
/// allowed_signers. What was seen is remembered when this returns.
SignedBy verify_signature(const Shrub& shrub, const std::string& entry, const SignerSettings& settings);

}  // namespace shrub
