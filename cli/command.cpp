#include "cli/command.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "cli/documents.h"
#include "cli/output.h"
#include "formats/base/numbers.h"

namespace cli {
namespace {

using base::Category;
using base::Error;

/// CLI11 takes an argument in brackets apart at its commas; a byte in front of it, removed again afterwards,
/// keeps it whole.
constexpr char kShield = '\x01';
std::vector<std::string> shielded(int argc, char** argv) {
  std::vector<std::string> arguments;  // in reverse, as CLI11 wants them
  for (int i = argc - 1; i > 0; --i)
    arguments.push_back(argv[i][0] == '[' || argv[i][0] == kShield ? kShield + std::string(argv[i])
                                                                   : std::string(argv[i]));
  return arguments;
}

/// CLI11 fills these; filled slots become values of the call.
struct Slots {
  std::map<std::string, std::vector<std::string>> values;
  std::map<std::string, bool> flags;
};

void add_option(CLI::App& app, const Option& option, Slots& slots) {
  const auto key = long_name(option);
  const auto help = wrapped(option.help, kHelpWidth - kHelpColumn, 0);  // CLI11 indents
  if (option.value.empty()) {
    app.add_flag(option.names, slots.flags[key], help);
    return;
  }
  if (!option.takes_word()) {  // what follows as a word of its own is no value of it
    app.add_flag(option.names, slots.values[key], help)->type_name("[=" + option.value.substr(1))->take_last();
    return;
  }
  auto* added = app.add_option(option.names, slots.values[key], help)->type_name(option.value);
  added->required(option.required);
  if (option.repeated)
    added->expected(1)->allow_extra_args(false)->take_all();
  else
    added->expected(1)->allow_extra_args(false)->take_last();
}

void add_argument(CLI::App& app, const Argument& argument, Slots& slots) {
  const auto help = wrapped(argument.help, kHelpWidth - kHelpColumn, 0);
  auto* added = app.add_option(argument.name, slots.values[argument.name], help)->type_name("");
  switch (argument.count) {
    case Argument::Count::one:
      added->required()->expected(1)->allow_extra_args(false);
      break;
    case Argument::Count::optional:
      added->expected(1)->allow_extra_args(false);
      break;
    case Argument::Count::some:
      added->required()->expected(1, CLI::detail::expected_max_vector_size);
      break;
    case Argument::Count::any:
      added->expected(1, CLI::detail::expected_max_vector_size);
      break;
  }
}

/// Standard descriptors that are closed would be taken by the next file opened; reading or writing them is an
/// error instead.
void occupy_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);  // the lowest free: this one
}

/// Deep trees and many threads have many directories open.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 65536);
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

/// SQLite maps a file of the index; where the disk under it is gone, looking there is a signal, not an error.
void tell_of_lost_disk() {
  struct sigaction action = {};
  action.sa_handler = [](int) {
    constexpr std::string_view kText = ": a file that is mapped cannot be read: Input/output error\n";
    (void)!::write(STDERR_FILENO, program_invocation_short_name, std::strlen(program_invocation_short_name));
    (void)!::write(STDERR_FILENO, kText.data(), kText.size());
    ::_exit(static_cast<int>(Category::local));
  };
  (void)::sigaction(SIGBUS, &action, nullptr);
}

/// Buffers of some megabytes come and go: memory that is given back each time has to be cleared each time.
void keep_freed_memory() {
  constexpr int kMaxThreshold = 32 << 20;  // the most that glibc takes
  (void)::mallopt(M_MMAP_THRESHOLD, kMaxThreshold);
  (void)::mallopt(M_TRIM_THRESHOLD, 2 * kMaxThreshold);
}

/// What is wrong with the arguments, better than CLI11 says it, or nothing.
std::string complaint(const Program& program, int argc, char** argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--") && argument.ends_with('=')) return argument + " lacks a value";
  }
  const auto takes_value = [&](const std::string& word) {
    return std::any_of(program.options.begin(), program.options.end(), [&](const Option& option) {
      return option.takes_word() && ("," + option.names + ",").find("," + word + ",") != std::string::npos;
    });
  };
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.starts_with('-')) {
      if (takes_value(word)) ++i;
      continue;
    }
    const bool known =
        word == "documents" || std::any_of(program.commands.begin(), program.commands.end(),
                                           [&](const Command& command) { return command.name == word; });
    return known ? "" : "there is no command '" + word + "'";
  }
  return {};
}

int run_checked(const Program& program, int argc, char** argv) {
  CLI::App app(program.summary, program.name);
  app.set_help_flag(help_option().names, help_option().help);
  app.set_version_flag("--version", program.name + " " + program.version, "print the version and exit");
  app.require_subcommand(1);
  app.fallthrough();
  app.get_formatter()->column_width(kHelpColumn);
  app.footer("\n" + wrapped(program.description, kHelpWidth, 0));
  Slots global;
  for (const auto& option : program.options) add_option(app, option, global);
  std::map<const Command*, Slots> slots;
  std::map<const Command*, CLI::App*> verbs;
  for (const auto& command : program.commands) {
    auto* verb = app.add_subcommand(command.name, command.summary);
    verb->footer(help_footer(program, command));
    for (const auto& option : command.options) add_option(*verb, option, slots[&command]);
    for (const auto& argument : command.arguments) add_argument(*verb, argument, slots[&command]);
    verbs[&command] = verb;
  }
  std::string documents, directory;
  auto* hidden = app.add_subcommand("documents", "")->group("");
  hidden->add_option("KIND", documents)->required();
  hidden->add_option("DIR", directory)->required();

  if (const auto what = complaint(program, argc, argv); !what.empty())
    throw Error(Category::usage, what, program.name + " --help");
  try {
    app.parse(shielded(argc, argv));
  } catch (const CLI::Success& wanted) {  // --help, --version
    const int code = app.exit(wanted);
    if (!std::cout.flush()) throw Error(Category::local, "stdout: cannot be written");
    return code;
  } catch (const CLI::ParseError& error) {
    std::string message = error.what();
    while (!message.empty() && message.back() == '\n') message.pop_back();
    std::string verb;
    for (const auto& [command, parsed] : verbs)
      if (parsed->parsed()) verb = command->name + " ";
    throw Error(Category::usage, message, program.name + " " + verb + "--help");
  }
  if (hidden->parsed()) {
    write_documents(program, documents, directory);
    return 0;
  }
  for (const auto& command : program.commands) {
    if (!verbs[&command]->parsed()) continue;
    Call call;
    for (const Slots* filled : {&global, &slots[&command]}) {
      for (auto [key, values] : filled->values) {
        for (auto& value : values)
          if (value.starts_with(kShield)) value.erase(0, 1);
        if (!values.empty()) call.set(key, values);
      }
      for (const auto& [key, given] : filled->flags)
        if (given) call.set(key, {});
    }
    (void)call.number("--jobs", 0, 1, 256);
    Output output(call, program.name);
    try {
      const int code = command.run(call, output);
      if (call.has("--dry-run")) output.message("dry run: nothing was changed");
      output.finish();
      return code;
    } catch (const Error&) {
      try {
        output.finish();  // what was printed before the error is data all the same
      } catch (const Error&) {
        // the first error is the one to tell
      }
      throw;
    }
  }
  return 0;
}

}  // namespace

std::optional<std::string> Call::find(const std::string& name) const {
  const auto found = values_.find(name);
  if (found == values_.end() || found->second.empty()) return std::nullopt;
  return found->second.back();
}

const std::string& Call::get(const std::string& name) const {
  return values_.at(name).back();
}

std::vector<std::string> Call::all(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

std::uint64_t Call::number(const std::string& name, std::uint64_t otherwise, std::uint64_t low,
                           std::uint64_t high) const {
  const auto text = find(name);
  if (!text) return otherwise;
  const auto value = base::parse_decimal(*text);
  if (!value || *value < low || *value > high)
    throw Error(Category::usage, name + ": '" + *text + "' is not a number from " + std::to_string(low) +
                                     " to " + std::to_string(high));
  return *value;
}

std::uint64_t Call::percentage(const std::string& name, std::uint64_t otherwise) const {
  Call bare;
  if (auto text = find(name)) {
    if (text->ends_with('%')) text->pop_back();
    bare.set(name, {*text});
  }
  return bare.number(name, otherwise, 1, 100);
}

std::uint64_t Call::duration(const std::string& name, std::uint64_t otherwise) const {
  Call bare;
  std::uint64_t unit = 1;
  if (auto text = find(name)) {
    constexpr std::pair<char, std::uint64_t> kUnits[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    for (const auto& [letter, seconds] : kUnits)
      if (text->ends_with(letter)) {
        text->pop_back();
        unit = seconds;
        break;
      }
    bare.set(name, {*text});
    return bare.number(name, 0, 0, UINT32_MAX) * unit;
  }
  return otherwise;
}

std::string meaning_of_exit_code(int code) {
  switch (code) {
    case 0:
      return "done";
    case 1:
      return "the answer is no (differences, not live, absent)";
    case 2:
      return "usage or configuration";
    case 3:
      return "partly done (--keep-going)";
    case 4:
      return "corrupt: bytes do not match their id";
    case 5:
      return "not found anywhere";
    case 6:
      return "network; may be retried";
    case 7:
      return "peers sent wrong bytes and none sent right ones";
    case 8:
      return "refused: unsafe or malformed input";
    case 9:
      return "local resource: disk full, permission";
    case 10:
      return "no vat or shrub here, or of an unknown version";
    case 11:
      return "busy: in use by a live process; may be retried";
    case 12:
      return "authentication";
    case 70:
      return "a bug in this program";
    default:
      return "unknown";
  }
}

std::vector<Option> common_options() {
  return {
      {"--json", "", "print JSON records (docs/json.md) instead of text"},
      {.names = "--progress",
       .value = "MODE",
       .help = "auto, tty, json or none",
       .choices = {"auto", "tty", "json", "none"}},
      {"-q,--quiet", "", "no messages, only errors and data"},
      {"-v,--verbose", "", "more messages"},
      {"-j,--jobs", "N", "threads to use (default: one per core)"},
  };
}

std::string long_name(const Option& option) {
  return option.names.substr(option.names.rfind(',') + 1);
}

Option dry_run_option() {
  return {"-n,--dry-run", "", "say what would change, change nothing"};
}

namespace {

/// Says what was thrown, which is under way; the exit code.
int report() try { throw; } catch (const Error& error) {
  std::cerr << program_invocation_short_name << ": " << printable(error.what()) << '\n';
  if (!error.hint().empty()) std::cerr << "hint: " << printable(error.hint()) << '\n';
  return error.exit_code();
} catch (const std::filesystem::filesystem_error& error) {
  std::cerr << program_invocation_short_name << ": " << printable(error.path1().string()) << ": "
            << error.code().message() << '\n';
  return static_cast<int>(Category::local);
} catch (const std::system_error& error) {  // a thread that cannot start
  std::cerr << program_invocation_short_name << ": " << printable(error.what()) << '\n';
  return static_cast<int>(Category::local);
} catch (const std::bad_alloc&) {
  std::cerr << program_invocation_short_name << ": out of memory\n";
  return static_cast<int>(Category::local);
} catch (const std::exception& error) {
  std::cerr << program_invocation_short_name << ": internal error: " << printable(error.what()) << '\n';
  return static_cast<int>(Category::internal);
}

}  // namespace

int run(const std::function<Program()>& describe, int argc, char** argv) noexcept try {
  try {
    const auto program = describe();
    occupy_standard_descriptors();
    raise_file_limit();
    // What whoever started us has open is not for programs that we start.
    (void)::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    (void)::signal(SIGXFSZ, SIG_IGN);  // a file as large as may be (ulimit -f) is an error, as a full disk is
    (void)::signal(SIGCHLD, SIG_DFL);  // whoever started us may ignore it, and then no child could be waited for
    tell_of_lost_disk();
    keep_freed_memory();
    return run_checked(program, argc, argv);
  } catch (...) {
    return report();
  }
} catch (...) {  // not even the message could be made
  std::cerr << program_invocation_short_name << ": out of memory\n";
  return static_cast<int>(Category::local);
}

}  // namespace cli
