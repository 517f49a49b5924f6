// The one exception type of this project and the exit codes it stands for.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace base {

/// What went wrong, as the caller sees it: the only thing code may branch on.
/// The value is also the process exit code (docs/design.md, "Exit codes"); never renumbered.
enum class Category : std::uint8_t {
  usage = 2,        ///< bad flag, parameter or configuration
  corrupt = 4,      ///< bytes do not match their id, and no good copy was found
  not_found = 5,    ///< an id, vref or ref the user named is absent everywhere
  network = 6,      ///< a peer is unreachable or timed out; may be retried
  wrong_bytes = 7,  ///< peers answered, none with bytes that match the id
  refused = 8,      ///< unsafe or malformed input; nothing was done
  local = 9,        ///< the local system refused: disk full, permission; errno text in the message
  no_store = 10,    ///< no vat or shrub here, or of a version this program does not know
  busy = 11,        ///< lock or lease held by a live process; may be retried
  authentication = 12,
  internal = 70,  ///< a bug in this program
};

/// The only exception type this project throws. 0 (done), 1 (the answer is no), 3 (partly done) and
/// 128+n (signal) are results of a verb, not errors. `hint` names the next command, or is empty.
class Error : public std::runtime_error {
 public:
  Error(Category category, const std::string& message, std::string hint = {}, bool is_no_room = false)
      : std::runtime_error(message), category_(category), hint_(std::move(hint)), is_no_room_(is_no_room) {}
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }
  [[nodiscard]] Category category() const noexcept { return category_; }
  /// local: there is no room for what was to be written; elsewhere there may be.
  [[nodiscard]] bool is_no_room() const noexcept { return is_no_room_; }
  [[nodiscard]] int exit_code() const noexcept { return static_cast<int>(category_); }

 private:
  Category category_;
  std::string hint_;
  bool is_no_room_;
};

/// `error` again, with `name: ` in front of its message; all else stays.
[[nodiscard]] Error prefixed(std::string_view name, const Error& error);

/// Throws Category::local with `what: strerror(errno_value)`; ENOENT and ENOTDIR become not_found.
[[noreturn]] void throw_errno(const std::string& what, int errno_value);

/// Runs `body`, naming `name` in front of any Error that leaves it.
template <typename Body>
auto named(std::string_view name, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& error) {
    throw prefixed(name, error);
  }
}

}  // namespace base
