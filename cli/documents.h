// Man pages and shell completions, written from the table of commands.
#pragma once

#include <string>

#include "cli/command.h"

namespace cli {

/// Examples and exit codes, for the end of a command's --help.
[[nodiscard]] std::string help_footer(const Command& command);

/// Writes all documents of `kind` ("man", "bash", "zsh" or "fish") into `directory`.
void write_documents(const Program& program, const std::string& kind, const std::string& directory);

}  // namespace cli
