// What a bucket says when it does not do what it was asked for: the XML that S3 sends with a status of 300
// and more.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "vat/internal/transfers.h"

namespace vat::internal {

/// Amazon S3 API Reference, "Error responses".
struct S3Error {
  std::string code;                       ///< ExpiredToken
  std::optional<TransferEnd::Kind> kind;  ///< what it means; none: what the status means
  std::string message;                    ///< with what to do about it
};

/// nullopt if `body` is no such XML. `region`: what the header x-amz-bucket-region says; may be empty.
[[nodiscard]] std::optional<S3Error> read_s3_error(std::string_view body, const std::string& region);

}  // namespace vat::internal
