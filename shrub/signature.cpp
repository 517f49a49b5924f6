#include "shrub/signature.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "formats/base/process.h"
#include "formats/json/json.h"

namespace shrub {
namespace {

using base::Category;
using base::Error;
using formats::json::Object;

constexpr const char* kNamespace =
    "shrub-vref";  ///< of ssh-keygen: no signature made for something else fits
constexpr const char* kHeader = "shrub-signature 1";
constexpr const char* kBegin = "-----BEGIN SSH SIGNATURE-----\n";
constexpr std::size_t kMaxSignature = std::size_t{64} << 10, kMaxSeen = std::size_t{64} << 20;

std::string digest_of(const std::string& text) {
  base::Sha256 hash;
  hash.update(base::as_bytes(text));
  return base::to_hex(hash.finish());
}

/// What ssh-keygen says to a text; throws local if it cannot be run.
struct Answer {
  int code = 0;
  std::string out, errors;
};
Answer ask(const std::vector<std::string>& arguments, const std::string& input) {
  base::Process program(arguments);
  try {
    program.write(input);
  } catch (const Error&) {  // it has ended, and says why
  }
  program.close_input();
  Answer answer;
  answer.out = program.read_rest();
  answer.code = program.finish();
  answer.errors = program.errors();
  if (answer.code == 127) throw Error(Category::local, "no ssh-keygen on PATH", "install openssh-client");
  return answer;
}

/// What was seen: versions by signer and name, names by place. Locked as long as it lives.
class Seen {
 public:
  explicit Seen(const std::string& directory) {
    if (directory.empty())
      throw Error(Category::usage, "neither XDG_CONFIG_HOME nor HOME is set: nowhere to keep what was seen");
    base::make_directories(directory);
    directory_ = base::open_directory(AT_FDCWD, directory);
    lock_ = base::open_at(directory_.get(), "signatures.lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    while (::flock(lock_.get(), LOCK_EX) != 0)
      if (errno != EINTR) base::throw_errno("lock signatures", errno);
    if (!base::find_regular_at(directory_.get(), kFile)) return;
    base::named(directory + "/" + kFile, [&] {
      const auto document = formats::json::parse(base::read_file(directory_.get(), kFile, kMaxSeen));
      const auto* object = document.find_object();
      const auto* versions = object != nullptr ? formats::json::find(*object, "versions") : nullptr;
      const auto* places = object != nullptr ? formats::json::find(*object, "places") : nullptr;
      if (versions == nullptr || versions->find_object() == nullptr || places == nullptr ||
          places->find_object() == nullptr)
        throw Error(Category::refused, "not what was written there");
      versions_ = *versions->find_object();
      places_ = *places->find_object();
    });
  }

  [[nodiscard]] std::uint64_t version_of(const std::string& signer, const std::string& name) const {
    std::uint64_t version = 0;
    const auto* value = formats::json::find(versions_, key_of(signer, name));
    if (value != nullptr && !value->find_unsigned(version))
      throw Error(Category::refused, "bad version of " + name);
    return version;
  }
  [[nodiscard]] std::optional<std::string> name_at(const std::string& place) const {
    const auto* value = formats::json::find(places_, formats::escape_for_json(place));
    return value != nullptr && value->find_string() != nullptr ? std::optional(*value->find_string())
                                                               : std::nullopt;
  }
  void put(const std::string& signer, const Statement& statement, const std::string& place) {
    formats::json::set(versions_, key_of(signer, statement.name), statement.version);
    formats::json::set(places_, formats::escape_for_json(place), formats::escape_for_json(statement.name));
    base::write_file_atomically(directory_.get(), kFile,
                                base::as_bytes(formats::json::to_document(
                                    {{"signatures", 1}, {"versions", versions_}, {"places", places_}})),
                                0600);
  }

 private:
  static constexpr const char* kFile = "signatures.json";
  static std::string key_of(const std::string& signer, const std::string& name) {
    return formats::escape_for_json(signer) + " " + formats::escape_for_json(name);
  }
  base::UniqueFd directory_, lock_;
  Object versions_, places_;
};

std::string required_text(const Shrub& shrub, const std::string& entry) {
  auto text = shrub.find_text(entry + kVrefSuffix, formats::kMaxVref);
  if (!text) throw Error(Category::not_found, entry + kVrefSuffix + ": not found");
  return *std::move(text);
}

}  // namespace

std::string to_text(const Statement& statement) {
  return std::string(kHeader) + "\nname " + formats::escape(statement.name) + "\nversion " +
         std::to_string(statement.version) + "\nsha256 " + statement.digest + "\n";
}

SignatureText parse_signature(const std::string& text) {
  const auto refuse = [] { throw Error(Category::refused, "signature: malformed"); };
  const auto begin = text.find(kBegin);
  if (begin == std::string::npos) refuse();
  std::string_view rest = std::string_view(text).substr(0, begin);
  const auto take = [&](std::string_view key) {
    const auto line = base::take_field(rest, '\n');
    if (!line.starts_with(key) || line.size() <= key.size()) refuse();
    return std::string(line.substr(key.size()));
  };
  (void)base::take_field(rest, '\n');  // the header: to_text() has it, too
  SignatureText parsed;
  parsed.statement.name = formats::unescape(take("name "));
  const auto version = base::parse_decimal(take("version "));
  parsed.statement.version = version.value_or(0);
  parsed.statement.digest = take("sha256 ");
  parsed.armored = text.substr(begin);
  const auto digest = base::from_hex(parsed.statement.digest);
  // What is signed is written anew from what was read: it has one text.
  if (!version || !digest || digest->size() != 32 || to_text(parsed.statement) != text.substr(0, begin))
    refuse();
  return parsed;
}

Statement sign(const Shrub& shrub, const std::string& entry, const std::string& shrub_name,
               const std::string& key) {
  const auto text = required_text(shrub, entry);
  (void)shrub.read(entry);  // nobody vouches for what is no vref
  Statement statement{shrub_name + "/" + entry, 1, digest_of(text)};
  const auto file = entry + kSignatureSuffix;
  if (const auto before = shrub.find_text(file, kMaxSignature)) {
    const auto old = base::named(file, [&] { return parse_signature(*before).statement; });
    if (old.name == statement.name) statement.version = old.version + 1;
  }
  const auto message = to_text(statement);
  const auto answer = ask({"ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", kNamespace}, message);
  if (answer.code != 0 || answer.out.find(kBegin) == std::string::npos)
    throw Error(Category::local, "ssh-keygen does not sign with " + key + ": " + answer.errors);
  shrub.write_text(file, message + answer.out);
  return statement;
}

SignedBy verify_signature(const Shrub& shrub, const std::string& entry, const SignerSettings& settings) {
  const auto allowed = settings.config_dir + "/allowed_signers";
  if (settings.config_dir.empty() || ::access(allowed.c_str(), R_OK) != 0)
    throw Error(Category::usage, allowed + ": not there, so nobody is trusted to sign",
                "one line each: NAME namespaces=\"shrub-vref\" KEY (ssh-keygen(1), ALLOWED SIGNERS)");
  const auto text = required_text(shrub, entry);
  const auto file = entry + kSignatureSuffix;
  const auto signature = shrub.find_text(file, kMaxSignature);
  if (!signature) throw Error(Category::refused, entry + kVrefSuffix + ": not signed");
  return base::named(file, [&]() -> SignedBy {
    auto [statement, armored] = parse_signature(*signature);
    base::make_directories(settings.scratch);
    const auto place = settings.scratch + "/signature";
    base::write_all(base::open_at(AT_FDCWD, place, O_WRONLY | O_CREAT | O_TRUNC, 0600).get(),
                    base::as_bytes(armored));
    const auto found = ask({"ssh-keygen", "-Y", "find-principals", "-s", place, "-f", allowed}, "");
    const auto signer = found.out.substr(0, found.out.find('\n'));
    if (found.code != 0 || signer.empty()) throw Error(Category::refused, "not by anybody in " + allowed);
    const auto checked =
        ask({"ssh-keygen", "-q", "-Y", "verify", "-f", allowed, "-I", signer, "-n", kNamespace, "-s", place},
            to_text(statement));
    if (checked.code != 0) throw Error(Category::refused, "does not verify");
    if (statement.digest != digest_of(text)) throw Error(Category::refused, "of another text");
    if (!statement.name.ends_with("/" + entry))
      throw Error(Category::refused, "of " + formats::escape(statement.name) + ", not of " + entry);
    Seen seen(settings.config_dir);
    const auto where = shrub.root() + "/" + entry;
    if (const auto before = seen.name_at(where);
        before && *before != formats::escape_for_json(statement.name))
      throw Error(Category::refused, "of " + formats::escape(statement.name) + ", but here was " + *before);
    if (const auto highest = seen.version_of(signer, statement.name); statement.version < highest)
      throw Error(Category::refused, "version " + std::to_string(statement.version) + ", but " +
                                         std::to_string(highest) + " was seen before");
    seen.put(signer, statement, where);
    return {std::move(statement), signer};
  });
}

}  // namespace shrub
