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

/// What `command` understands: its own options first.
std::vector<Option> options_of(const Program& program, const Command& command) {
  auto options = command.options;
  options.insert(options.end(), program.options.begin(), program.options.end());
  options.push_back(help_option());
  return options;
}

/// What the program understands without a command.
std::vector<Option> options_of(const Program& program) {
  auto options = program.options;
  options.push_back(help_option());
  options.push_back({"--version", "", "print the version and exit"});
  return options;
}

/// What the arguments of `command` name: files if any may be one.
Completion argument_completion(const Command& command) {
  auto found = Completion::none;
  for (const auto& argument : command.arguments)
    if (argument.completion != Completion::none && found != Completion::file) found = argument.completion;
  return found;
}

std::string joined(const std::vector<std::string>& words, std::string_view between) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) (text += i == 0 ? "" : between) += words[i];
  return text;
}

/// One paragraph in lines of at most `width` characters, `indent` blanks in front of all but the first.
std::string wrapped_paragraph(std::string_view text, std::size_t width, std::size_t indent) {
  const auto length = [](std::string_view word) {  // in characters: UTF-8 continuation bytes do not count
    return static_cast<std::size_t>(
        std::count_if(word.begin(), word.end(), [](char c) { return (c & 0xc0) != 0x80; }));
  };
  std::string out;
  std::size_t column = 0;
  while (!text.empty()) {
    const auto word = text.substr(0, text.find_first_of(" \n"));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (word.empty()) continue;
    if (column > 0 && column + 1 + length(word) > width) {
      out += "\n" + std::string(indent, ' ');
      column = 0;
    } else if (column > 0) {
      out += ' ';
      ++column;
    }
    out += word;
    column += length(word);
  }
  return out;
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

std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if (c == '\'')  // these four are typographic marks to roff, and would not survive copy and paste
      out += "\\(aq";
    else if (c == '`')
      out += "\\(ga";
    else if (c == '^')
      out += "\\(ha";
    else if (c == '~')
      out += "\\(ti";
    else if (c == '.' && (out.empty() || out.back() == '\n'))
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
    if (option.takes_word())
      text += " \\fI" + roff(option.value) + "\\fR";
    else if (!option.value.empty())
      text += "[=\\fI" + roff(option.value.substr(1, option.value.size() - 2)) + "\\fR]";
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
  page += ".SH OPTIONS\n" + roff_options(options_of(program, command));
  page += ".SH EXAMPLES\n";
  for (const auto& example : command.examples)
    page += ".PP\n" + roff(example.says) + ":\n.PP\n.RS 4\n.nf\n" + roff(example.command) + "\n.fi\n.RE\n";
  page += ".SH EXIT STATUS\n";
  for (const int code : exit_codes(command))
    page += ".TP\n" + std::to_string(code) + "\n" + roff(meaning_of_exit_code(code)) + "\n";
  page += ".SH SEE ALSO\n\\fB" + program.name + "\\fR(1)\n";
  return page;
}

/// What both programs read of the environment.
struct Variable {
  const char* names;
  const char* help;
};
constexpr Variable kVariables[] = {
    {"VAT_DIR", "the vat, where neither an option nor a shrub names one"},
    {"VAT_CACHE_DIR, XDG_CACHE_HOME",
     "where the cache lies, else $HOME/.cache/vat; all in it can be deleted at any time"},
    {"VAT_CACHE_SIZE", "what the cache may hold at most: 16G if unset"},
    {"TMPDIR",
     "where large things lie for a moment, such as an archive on its way out of a vat. If it is not named, "
     "cannot be "
     "written or is full, the cache is taken, then the wedge"},
    {"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL",
     "for s3 vats, as other programs read them"},
    {"VAT_SSH_KEY, VAT_SSH_KNOWN_HOSTS", "for ssh vats, else what is in $HOME/.ssh"},
    {"https_proxy, http_proxy, all_proxy, no_proxy", "for http vats, as curl reads them"},
    {"CURL_CA_BUNDLE, SSL_CERT_FILE", "certificates to trust instead of the system's"},
    {"SOURCE_DATE_EPOCH", "seconds since 1970, written where the present time would be"},
};

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
  page += ".SH OPTIONS\n" + roff_options(options_of(program));
  page += ".SH ENVIRONMENT\n";
  for (const auto& variable : kVariables)
    page += ".TP\n\\fB" + roff(variable.names) + "\\fR\n" + roff(variable.help) + "\n";
  return page;
}

std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// The bash that fills COMPREPLY with files, with directories, or with nothing.
std::string bash_paths(Completion completion) {
  if (completion == Completion::none) return ":";
  return std::string("mapfile -t COMPREPLY < <(compgen ") + (completion == Completion::file ? "-f" : "-d") +
         " -- \"$current\"); compopt -o filenames 2>/dev/null";
}

std::string bash_words(const std::string& words) {
  return "mapfile -t COMPREPLY < <(compgen -W " + quoted(words) + " -- \"$current\")";
}

std::string bash_option_words(const std::vector<Option>& options) {
  std::vector<std::string> all;
  for (const auto& option : options)
    for (const auto& name : spellings(option)) all.push_back(name);
  return bash_words(joined(all, " "));
}

/// Branches of `case $verb,$previous`: what comes after an option with a value.
std::string bash_values(const std::string& verb, const std::vector<Option>& options) {
  std::string text;
  for (const auto& option : options) {
    if (!option.takes_word()) continue;
    std::vector<std::string> patterns;
    for (const auto& name : spellings(option)) patterns.push_back(verb + "," + name);
    text +=
        "  " + joined(patterns, "|") + ") " +
        (option.choices.empty() ? bash_paths(option.completion) : bash_words(joined(option.choices, " "))) +
        "; return 0 ;;\n";
  }
  return text;
}

std::string bash_completion(const Program& program) {
  const std::string function = "_" + program.name;
  std::vector<std::string> verbs, valued;
  for (const auto& command : program.commands) verbs.push_back(command.name);
  for (const auto& option : program.options)
    if (option.takes_word())
      for (const auto& name : spellings(option)) valued.push_back(name);
  // --name=value arrives as three words.
  std::string script = "# bash completion of " + program.name + "; written by " + program.name +
                       " documents\n" + function +
                       "() {\n"
                       "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
                       "  local verb='' value='' word\n"
                       "  COMPREPLY=()\n"
                       "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
                       "    case $value,$word in\n"
                       "    x,=) ;;\n"
                       "    x,*) value='' ;;\n"
                       "    ," +
                       joined(valued, "|,") +
                       ") value=x ;;\n"
                       "    ,-*) ;;\n"
                       "    *) verb=$word; break ;;\n"
                       "    esac\n"
                       "  done\n"
                       "  [[ $current == = ]] && current=''\n"
                       "  [[ $previous == = ]] && previous=${COMP_WORDS[COMP_CWORD-2]}\n"
                       "  case $verb,$previous in\n" +
                       bash_values("*", program.options);
  for (const auto& command : program.commands) script += bash_values(command.name, command.options);
  script += "  esac\n  case $verb,$current in\n  ,-*) " + bash_option_words(options_of(program)) +
            " ;;\n  ,*) " + bash_words(joined(verbs, " ")) + " ;;\n";
  for (const auto& command : program.commands)
    script += "  " + command.name + ",-*) " + bash_option_words(options_of(program, command)) + " ;;\n  " +
              command.name + ",*) " + bash_paths(argument_completion(command)) + " ;;\n";
  return script + "  esac\n}\ncomplete -F " + function + " " + program.name + "\n";
}

/// `text` where zsh gives brackets and colons a meaning.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_paths(Completion completion) {
  return completion == Completion::none ? " " : completion == Completion::file ? "_files" : "_files -/";
}

/// What _arguments is told of an option; one spelling excludes the other unless it may be repeated.
std::string zsh_option(const Option& option) {
  const auto names = spellings(option);
  std::string text;
  for (const auto& name : names) {
    auto spec = option.repeated    ? "*" + name
                : names.size() > 1 ? "(" + joined(names, " ") + ")" + name
                                   : name;
    if (option.takes_word()) spec += name.starts_with("--") ? "=" : "+";
    spec += "[" + zsh_text(option.help) + "]";
    if (option.takes_word())
      spec +=
          ":" + zsh_text(option.value) + ":" +
          (option.choices.empty() ? zsh_paths(option.completion) : "(" + joined(option.choices, " ") + ")");
    text += " \\\n      " + quoted(spec);
  }
  return text;
}

std::string zsh_completion(const Program& program) {
  std::string script = "#compdef " + program.name + "\n\n_" + program.name +
                       "() {\n  local context state state_descr line\n  typeset -A opt_args\n"
                       "  local -a verbs\n  verbs=(\n";
  for (const auto& command : program.commands)
    script += "    " + quoted(command.name + ":" + zsh_text(command.summary)) + "\n";
  script += "  )\n  _arguments -C";
  for (const auto& option : options_of(program)) script += zsh_option(option);
  script +=
      " \\\n      '1:verb:->verb' '*::argument:->argument' && return\n"
      "  case $state in\n  verb) _describe verb verbs; return ;;\n  argument) ;;\n  *) return 1 ;;\n  esac\n"
      "  case $words[1] in\n";
  for (const auto& command : program.commands) {
    script += "  " + command.name + ")\n    _arguments";
    for (const auto& option : options_of(program, command)) script += zsh_option(option);
    const auto completion = argument_completion(command);
    if (!command.arguments.empty())
      script += " \\\n      " + quoted("*:" + command.arguments.front().name + ":" + zsh_paths(completion));
    script += "\n    ;;\n";
  }
  return script + "  esac\n}\n\n_" + program.name + " \"$@\"\n";
}

std::string fish_option(const std::string& beginning, const Option& option) {
  std::string text = beginning;
  for (const auto& name : spellings(option))
    text += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  if (!option.choices.empty())
    text += " -x -a " + quoted(joined(option.choices, " "));
  else if (option.takes_word() && option.completion == Completion::directory)
    text += " -x -a '(__fish_complete_directories)'";
  else if (option.takes_word())
    text += option.completion == Completion::file ? " -r -F" : " -x";
  return text + " -d " + quoted(option.help) + "\n";
}

std::string fish_completion(const Program& program) {
  const std::string complete = "complete -c " + program.name;
  std::vector<std::string> verbs;
  for (const auto& command : program.commands) verbs.push_back(command.name);
  const auto no_verb = complete + " -n " + quoted("not __fish_seen_subcommand_from " + joined(verbs, " "));
  std::string script = complete + " -f\n";
  for (const auto& option : options_of(program)) script += fish_option(no_verb, option);
  for (const auto& command : program.commands) {
    script += no_verb + " -a " + command.name + " -d " + quoted(command.summary) + "\n";
    const auto seen = complete + " -n " + quoted("__fish_seen_subcommand_from " + command.name);
    const auto arguments = argument_completion(command);
    if (arguments == Completion::file) script += seen + " -F\n";
    if (arguments == Completion::directory) script += seen + " -a '(__fish_complete_directories)'\n";
    for (const auto& option : options_of(program, command)) script += fish_option(seen, option);
  }
  return script;
}

}  // namespace

Option help_option() {
  return {"-h,--help", "", "print help and exit"};
}

std::string wrapped(std::string_view text, std::size_t width, std::size_t indent) {
  std::string out;
  while (true) {
    const auto end = text.find("\n\n");
    out += wrapped_paragraph(text.substr(0, end), width, indent);
    if (end == std::string_view::npos) return out;
    out += "\n\n" + std::string(indent, ' ');
    text.remove_prefix(end + 2);
  }
}

std::string help_footer(const Program& program, const Command& command) {
  std::string text = "Options of every verb:\n";
  for (const auto& option : program.options) {
    auto name = "  " + option.names + (option.value.empty() ? "" : " " + option.value);
    name.resize(std::max(name.size() + 1, kHelpColumn), ' ');
    text += name + wrapped(option.help, kHelpWidth - kHelpColumn, kHelpColumn) + "\n";
  }
  text += "\n" + wrapped(command.description, kHelpWidth, 0) + "\n\nExamples:\n";
  for (const auto& example : command.examples)
    text += "  " + example.command + "\n      " + example.says + "\n";
  text += "\nExit codes:\n";
  for (const int code : exit_codes(command))
    text += std::string(code < 10 ? "   " : "  ") + std::to_string(code) + "  " + meaning_of_exit_code(code) +
            "\n";
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
