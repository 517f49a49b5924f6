// What damaged input may do to a reader: be refused or called corrupt, or turn out harmless; nothing else.
#pragma once

#include <catch2/catch.hpp>
#include <cstddef>
#include <string>

#include "formats/base/bytes.h"
#include "formats/base/error.h"

namespace tests {

/// Whether `body` returned. Errors of category corrupt and refused are the answer no; others fail the test.
template <typename Body>
bool accepts(Body&& body) {
  try {
    body();
    return true;
  } catch (const base::Error& error) {
    if (error.category() != base::Category::corrupt && error.category() != base::Category::refused)
      FAIL("category " << error.exit_code() << ": " << error.what());
    return false;
  }
}

/// The error that leaves `body`; fails the test if none does.
template <typename Body>
base::Error error_of(Body&& body) {
  try {
    body();
  } catch (const base::Error& error) {
    return error;
  }
  FAIL("accepted");
  return {base::Category::internal, ""};
}
template <typename Body>
base::Category category_of(Body&& body) {
  return error_of(body).category();
}
/// Which of several checks it was that refused.
template <typename Body>
std::string message_of(Body&& body) {
  return error_of(body).what();
}

/// Calls `visit(bytes)` for every proper prefix of `whole`, each in a buffer of its own: over-reads show
/// under asan.
template <typename Visit>
void for_each_truncation(base::Bytes whole, Visit&& visit) {
  for (std::size_t size = 0; size < whole.size(); ++size)
    visit(base::Buffer(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
}

/// Calls `visit(bytes)` for `whole` with each of its bits flipped in turn.
template <typename Visit>
void for_each_flip(base::Bytes whole, Visit&& visit) {
  base::Buffer bytes(whole.begin(), whole.end());
  for (auto& byte : bytes)
    for (unsigned bit = 0; bit < 8; ++bit) {
      byte ^= static_cast<std::byte>(1U << bit);
      visit(bytes);
      byte ^= static_cast<std::byte>(1U << bit);
    }
}

inline std::string to_text(base::Bytes bytes) {
  return std::string(base::as_chars(bytes));
}
inline base::Buffer to_buffer(std::string_view text) {
  const auto bytes = base::as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

}  // namespace tests
