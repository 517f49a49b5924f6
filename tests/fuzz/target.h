// What all fuzz targets share: which errors hostile input may cause, and how broken promises end the program.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "formats/base/bytes.h"
#include "formats/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

inline void require(bool promise, const char* what) {
  if (promise) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

/// Runs `body`; true if it returned. Errors that input may cause are swallowed, all else aborts.
template <typename Body>
bool survives(Body&& body) {
  try {
    body();
    return true;
  } catch (const base::Error& error) {
    switch (error.category()) {
      case base::Category::corrupt:
      case base::Category::refused:
      case base::Category::no_store:
      case base::Category::usage:
        return false;
      default:
        require(false, error.what());
    }
  }
  return false;
}

/// The first byte of the input, taken off: it chooses what is done with the rest.
inline unsigned take_choice(base::Bytes& input) {
  if (input.empty()) return 0;
  const auto choice = std::to_integer<unsigned>(input[0]);
  input = input.subspan(1);
  return choice;
}

inline base::Bytes input_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

/// The input as a file; reading outside of it is a broken promise. `input` outlives it.
inline base::ReadAt reader_of(base::Bytes input) {
  return [input](std::uint64_t at, base::MutableBytes to) {
    require(at <= input.size() && to.size() <= input.size() - at, "nothing is read outside the file");
    const auto part = input.subspan(static_cast<std::size_t>(at), to.size());
    std::copy(part.begin(), part.end(), to.begin());
    return true;
  };
}

}  // namespace fuzz
