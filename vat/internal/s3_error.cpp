#include "vat/internal/s3_error.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace vat::internal {
namespace {

using Kind = TransferEnd::Kind;

constexpr std::size_t kMaxText = 64;

/// The text of the first such element if it is a plain word, as codes, regions and times are; else empty.
std::string word_of(std::string_view body, const std::string& element) {
  const auto begin = body.find("<" + element + ">");
  if (begin == std::string_view::npos) return {};
  auto text = body.substr(begin + element.size() + 2);
  text = text.substr(0, std::min(text.find('<'), kMaxText));
  const bool is_plain = std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("-_.:").find(c) != std::string_view::npos;
  });
  return is_plain ? std::string(text) : std::string();
}

template <std::size_t N>
bool is_one_of(const std::string& code, const std::array<std::string_view, N>& known) {
  return std::find(known.begin(), known.end(), code) != known.end();
}

constexpr std::array<std::string_view, 10> kLogin{
    "ExpiredToken",          "InvalidToken",         "TokenRefreshRequired", "InvalidAccessKeyId",
    "SignatureDoesNotMatch", "InvalidSecurity",      "AccountProblem",       "NotSignedUp",
    "AllAccessDisabled",     "MissingSecurityHeader"};
constexpr std::array<std::string_view, 6> kRegion{
    "AuthorizationHeaderMalformed",       "PermanentRedirect", "TemporaryRedirect", "Redirect",
    "IllegalLocationConstraintException", "IncorrectEndpoint"};
constexpr std::array<std::string_view, 2> kClock{"RequestTimeTooSkewed", "RequestExpired"};

}  // namespace

std::optional<S3Error> read_s3_error(std::string_view body, const std::string& region) {
  S3Error error;
  error.code = word_of(body, "Code");
  if (error.code.empty() && region.empty()) return std::nullopt;
  error.message = error.code;
  if (is_one_of(error.code, kLogin)) {
    error.kind = Kind::authentication;
    if (error.code.find("Token") != std::string::npos) error.message += " (log in again: AWS_SESSION_TOKEN)";
  } else if (error.code.empty() || is_one_of(error.code, kRegion)) {
    const auto told = word_of(body, "Region");
    const auto& right = told.empty() ? region : told;
    error.kind = Kind::authentication;
    error.message = (error.code.empty() ? "another region" : error.code) + " (" +
                    (right.empty() ? "name its region" : "the bucket is in region " + right) +
                    ": \"region\" in VAT.json, or AWS_REGION)";
  } else if (is_one_of(error.code, kClock)) {
    const auto time = word_of(body, "ServerTime");
    error.kind = Kind::authentication;
    error.message += " (set the clock of this machine" + (time.empty() ? "" : ": there it is " + time) + ")";
  } else if (error.code == "AccessDenied") {
    error.message += " (this login may not do that)";
  }
  return error;
}

}  // namespace vat::internal
