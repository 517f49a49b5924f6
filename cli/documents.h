// Man pages and shell completions, written from the table of commands.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "cli/command.h"

namespace cli {

/// Lines of --help end here, and what is said of an option begins there.
inline constexpr std::size_t kHelpWidth = 80, kHelpColumn = 28;

/// Understood by the program and every command.
[[nodiscard]] Option help_option();

/// `text` in lines of at most `width` characters, `indent` blanks in front of all but the first. Blank lines
/// stay.
[[nodiscard]] std::string wrapped(std::string_view text, std::size_t width, std::size_t indent);

/// What --help of a command ends with: options of every command, description, examples, exit codes.
[[nodiscard]] std::string help_footer(const Program& program, const Command& command);

/// Writes all documents of `kind` ("man", "bash", "zsh" or "fish") into `directory`.
void write_documents(const Program& program, const std::string& kind, const std::string& directory);

}  // namespace cli
