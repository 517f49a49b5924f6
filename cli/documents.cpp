#include "cli/documents.h"

#include <fcntl.h>

#include <algorithm>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace cli {
namespace {

using base::Category;
using base::Error;

std::vector<int> exit_codes(const Command& command) {
  std::vector<int> codes = {0, 2, 9, 70};
  codes.insert(codes.end(), command.exit_codes.begin(), command.exit_codes.end());
  std::sort(codes.begin(), codes.end());
  codes.erase(std::unique(codes.begin(), codes.end()), codes.end());
  return codes;
}

std::vector<std::string> spellings(const Option& option) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at != std::string::npos;) {
    const auto comma = option.names.find(',', at);
    names.push_back(option.names.substr(at, comma == std::string::npos ? comma : comma - at));
    at = comma == std::string::npos ? comma : comma + 1;
  }
  return names;
}

std::string synopsis(const Program& program, const Command& command) {
  std::string text = program.name + " " + command.name + " [OPTION…]";
  for (const auto& argument : command.arguments) {
    switch (argument.count) {
      case Argument::Count::one:
        text += " " + argument.name;
        break;
      case Argument::Count::optional:
        text += " [" + argument.name + "]";
        break;
      case Argument::Count::some:
        text += " " + argument.name + "…";
        break;
      case Argument::Count::any:
        text += " [" + argument.name + "…]";
        break;
    }
  }
  return text;
}

// --- man (roff)
// -----------------------------------------------------------------------------------------------------

std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n'))
      (out += "\\&") += c;
    else
      out += c;
  }
  return out;
}

std::string roff_options(const std::vector<Option>& options) {
  std::string text;
  for (const auto& option : options) {
    text += ".TP\n";
    const auto names = spellings(option);
    for (std::size_t i = 0; i < names.size(); ++i)
      text += (i == 0 ? "\\fB" : ", \\fB") + roff(names[i]) + "\\fR";
    if (!option.value.empty()) text += " \\fI" + roff(option.value) + "\\fR";
    text += "\n" + roff(option.help) + "\n";
  }
  return text;
}

std::string roff_paragraphs(std::string_view text) {
  std::string out = roff(text);
  for (std::size_t at = 0; (at = out.find("\n\n", at)) != std::string::npos; at += 5)
    out.replace(at, 2, "\n.PP\n");
  return out + "\n";
}

std::string man_page(const Program& program, const Command& command) {
  std::string title = program.name + "-" + command.name;
  std::transform(title.begin(), title.end(), title.begin(), [](unsigned char c) { return std::toupper(c); });
  std::string page = ".TH \"" + title + "\" 1 \"\" \"" + program.name + " " + program.version + "\"\n";
  page += ".SH NAME\n" + program.name + "\\-" + roff(command.name) + " \\- " + roff(command.summary) + "\n";
  page += ".SH SYNOPSIS\n" + roff(synopsis(program, command)) + "\n";
  page += ".SH DESCRIPTION\n" + roff_paragraphs(command.description);
  if (!command.arguments.empty()) {
    page += ".SH ARGUMENTS\n";
    for (const auto& argument : command.arguments)
      page += ".TP\n\\fI" + roff(argument.name) + "\\fR\n" + roff(argument.help) + "\n";
  }
  page += ".SH OPTIONS\n" + roff_options(command.options) + roff_options(program.options);
  page += ".SH EXAMPLES\n";
  for (const auto& example : command.examples)
    page += ".PP\n" + roff(example.says) + ":\n.PP\n.RS 4\n.nf\n" + roff(example.command) + "\n.fi\n.RE\n";
  page += ".SH EXIT STATUS\n";
  for (const int code : exit_codes(command))
    page += ".TP\n" + std::to_string(code) + "\n" + roff(meaning_of_exit_code(code)) + "\n";
  page += ".SH SEE ALSO\n\\fB" + program.name + "\\fR(1)\n";
  return page;
}

std::string main_page(const Program& program) {
  std::string title = program.name;
  std::transform(title.begin(), title.end(), title.begin(), [](unsigned char c) { return std::toupper(c); });
  std::string page = ".TH \"" + title + "\" 1 \"\" \"" + program.name + " " + program.version + "\"\n";
  page += ".SH NAME\n" + program.name + " \\- " + roff(program.summary) + "\n";
  page += ".SH SYNOPSIS\n" + program.name + " COMMAND [OPTION…] [ARGUMENT…]\n";
  page += ".SH DESCRIPTION\n" + roff_paragraphs(program.description);
  page += ".SH COMMANDS\n";
  for (const auto& command : program.commands)
    page +=
        ".TP\n\\fB" + program.name + "\\-" + roff(command.name) + "\\fR(1)\n" + roff(command.summary) + "\n";
  page += ".SH OPTIONS\n" + roff_options(program.options);
  return page;
}

// --- completions
// ----------------------------------------------------------------------------------------------------

std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string words(const Program& program, const Command& command) {
  std::string text;
  for (const auto* options : {&command.options, &program.options})
    for (const auto& option : *options)
      for (const auto& name : spellings(option)) text += (text.empty() ? "" : " ") + name;
  return text + " --help";
}

std::string bash_completion(const Program& program) {
  const std::string function = "_" + program.name;
  std::string verbs;
  for (const auto& command : program.commands) verbs += (verbs.empty() ? "" : " ") + command.name;
  std::string script = function +
                       "() {\n  local current=${COMP_WORDS[COMP_CWORD]} verb='' word\n"
                       "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case $word in\n    ";
  for (std::size_t i = 0; i < program.commands.size(); ++i)
    script += (i == 0 ? "" : "|") + program.commands[i].name;
  script += ") verb=$word; break ;;\n    esac\n  done\n  case $verb in\n  '') COMPREPLY=($(compgen -W " +
            quoted(verbs + " --help --version") + " -- \"$current\")) ;;\n";
  for (const auto& command : program.commands) {
    script +=
        "  " + command.name + ")\n    if [[ $current == -* ]]; then\n      COMPREPLY=($(compgen -W " +
        quoted(words(program, command)) +
        " -- \"$current\"))\n    else\n      COMPREPLY=($(compgen -f -- \"$current\"))\n    fi\n    ;;\n";
  }
  return script + "  esac\n}\ncomplete -o filenames -F " + function + " " + program.name + "\n";
}

std::string zsh_completion(const Program& program) {
  std::string script =
      "#compdef " + program.name + "\n\n_" + program.name + "() {\n  local -a verbs\n  verbs=(\n";
  for (const auto& command : program.commands)
    script += "    " + quoted(command.name + ":" + command.summary) + "\n";
  script +=
      "  )\n  if (( CURRENT == 2 )); then\n    _describe verb verbs\n    return\n  fi\n  case $words[2] in\n";
  for (const auto& command : program.commands) {
    script += "  " + command.name + ")\n    _arguments";
    for (const auto* options : {&command.options, &program.options})
      for (const auto& option : *options)
        for (const auto& name : spellings(option)) {
          std::string help = option.help;
          for (auto& c : help)
            if (c == '[' || c == ']' || c == ':') c = ' ';
          script +=
              " \\\n      " +
              quoted(name + "[" + help + "]" +
                     (option.value.empty() ? ""
                                           : ":" + option.value + ":" +
                                                 (option.completion == Completion::none   ? " "
                                                  : option.completion == Completion::file ? "_files"
                                                                                          : "_files -/")));
        }
    script += " \\\n      '*:file:_files'\n    ;;\n";
  }
  return script + "  esac\n}\n\n_" + program.name + " \"$@\"\n";
}

std::string fish_completion(const Program& program) {
  std::string script;
  for (const auto& command : program.commands) {
    script += "complete -c " + program.name + " -n __fish_use_subcommand -a " + command.name + " -d " +
              quoted(command.summary) + "\n";
    for (const auto* options : {&command.options, &program.options})
      for (const auto& option : *options) {
        script +=
            "complete -c " + program.name + " -n " + quoted("__fish_seen_subcommand_from " + command.name);
        for (const auto& name : spellings(option))
          script += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
        if (!option.value.empty()) script += " -r";
        script += " -d " + quoted(option.help) + "\n";
      }
  }
  return script;
}

}  // namespace

std::string help_footer(const Command& command) {
  std::string text = "\n" + command.description + "\n\nExamples:\n";
  for (const auto& example : command.examples)
    text += "  " + example.command + "\n      " + example.says + "\n";
  text += "\nExit codes:\n";
  for (const int code : exit_codes(command))
    text += "  " + std::to_string(code) + "  " + meaning_of_exit_code(code) + "\n";
  return text;
}

void write_documents(const Program& program, const std::string& kind, const std::string& directory) {
  base::make_directories(directory);
  const auto dir = base::open_directory(AT_FDCWD, directory);
  const auto write = [&](const std::string& name, const std::string& text) {
    base::write_file_atomically(dir.get(), name, base::as_bytes(text));
  };
  if (kind == "man") {
    write(program.name + ".1", main_page(program));
    for (const auto& command : program.commands)
      write(program.name + "-" + command.name + ".1", man_page(program, command));
  } else if (kind == "bash") {
    write(program.name, bash_completion(program));
  } else if (kind == "zsh") {
    write("_" + program.name, zsh_completion(program));
  } else if (kind == "fish") {
    write(program.name + ".fish", fish_completion(program));
  } else {
    throw Error(Category::usage, "documents: '" + kind + "' is not man, bash, zsh or fish");
  }
}

}  // namespace cli
