// Places for large things that are of use for a moment.
#pragma once

#include <string>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/unique_fd.h"

namespace base {

/// A directory that scratch may lie in.
struct ScratchPlace {
  std::string path;
  std::string name;  ///< what says that it is this one, for messages: "TMPDIR"
};

/// Why no place would do.
class ScratchFailures {
 public:
  void add(const ScratchPlace& place, const Error& error);
  [[noreturn]] void report() const;

 private:
  std::string text_;
};

/// Calls `use` with one place after the other until it does not throw Error::is_no_room(). Throws local when
/// there is no next place.
template <typename Use>
auto use_scratch(const std::vector<ScratchPlace>& places, Use&& use) -> decltype(use(places.front())) {
  ScratchFailures failures;
  for (const auto& place : places) {
    try {
      return use(place);
    } catch (const Error& error) {
      if (!error.is_no_room()) throw;
      failures.add(place, error);
    }
  }
  failures.report();
}

/// A file without a name in a directory, open for reading and writing. Throws is_no_room() also where there
/// is no such directory or it cannot be written.
[[nodiscard]] UniqueFd open_nameless(const std::string& directory);
/// Makes a directory of a new name in `directory`; likewise.
[[nodiscard]] std::string make_scratch_directory(const std::string& directory);

}  // namespace base
