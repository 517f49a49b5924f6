// The one table of a program's commands: parsing, --help, man pages and completions all come from it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/error.h"

namespace cli {

class Output;

/// What a value names, for completion.
enum class Completion : std::uint8_t { none, file, directory };

struct Option {
  std::string names;  ///< "-j,--jobs"
  /// Placeholder such as "N", or "[GROUP]" if it may be left out and is "true" then; empty for a flag.
  std::string value;
  std::string help;
  Completion completion = Completion::none;
  bool repeated = false;
  bool required = false;
  std::vector<std::string> choices = {};  ///< all values there are, for completion

  /// Whether the word after it is its value.
  [[nodiscard]] bool takes_word() const { return !value.empty() && value.front() != '['; }
};

/// "--jobs" of "-j,--jobs": what Call knows it by.
[[nodiscard]] std::string long_name(const Option& option);

struct Argument {
  enum class Count : std::uint8_t { one, optional, some, any };
  std::string name;
  Count count;
  std::string help;
  Completion completion = Completion::none;
};

struct Example {
  std::string command;
  std::string says;
};

/// The values of one call.
class Call {
 public:
  /// An option is named by its last spelling ("--jobs"), an argument by its name ("FILE").
  [[nodiscard]] bool has(const std::string& name) const { return values_.contains(name); }
  [[nodiscard]] std::optional<std::string> find(const std::string& name) const;
  /// The value of a required argument or of an option that was checked with has().
  [[nodiscard]] const std::string& get(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> all(const std::string& name) const;
  /// The value as a number; usage if it is not one or not within the bounds.
  [[nodiscard]] std::uint64_t number(const std::string& name, std::uint64_t otherwise, std::uint64_t low,
                                     std::uint64_t high) const;
  /// As number(), from 1 to 100; a % may follow.
  [[nodiscard]] std::uint64_t percentage(const std::string& name, std::uint64_t otherwise) const;
  /// As number(), in seconds: 90, 90s, 15m, 2h, 14d.
  [[nodiscard]] std::uint64_t duration(const std::string& name, std::uint64_t otherwise) const;
  void set(const std::string& name, std::vector<std::string> values) { values_[name] = std::move(values); }

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

struct Command {
  std::string name;
  std::string summary;      ///< one line, no full stop
  std::string description;  ///< paragraphs, separated by blank lines
  std::vector<Argument> arguments;
  std::vector<Option> options;
  std::vector<Example> examples;
  std::vector<int> exit_codes;  ///< besides 0, 2, 9 and 70, which all have
  std::function<int(const Call&, Output&)> run;
};

struct Program {
  std::string name;
  std::string version;
  std::string summary;
  std::string description;
  std::vector<Option> options;  ///< understood by every command, before or after its name
  std::vector<Command> commands;
};

/// What an exit code means, as docs and --help print it.
[[nodiscard]] std::string meaning_of_exit_code(int code);

/// Options that every command of both programs understands.
[[nodiscard]] std::vector<Option> common_options();

/// -n, for commands that change something. Output marks what a dry run prints.
[[nodiscard]] Option dry_run_option();

/// Makes the program's description, parses, runs, and turns what is thrown into a message on stderr and an
/// exit code.
[[nodiscard]] int run(const std::function<Program()>& describe, int argc, char** argv) noexcept;

}  // namespace cli
