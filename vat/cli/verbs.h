// The verbs of vat, one per file, and what they share.
#pragma once

#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/output.h"
#include "vat/adder.h"
#include "vat/peer_set.h"
#include "vat/vat.h"

namespace vat_cli {

[[nodiscard]] cli::Command init_command();
[[nodiscard]] cli::Command add_command();
[[nodiscard]] cli::Command cat_command();
[[nodiscard]] cli::Command get_command();
[[nodiscard]] cli::Command has_command();
[[nodiscard]] cli::Command ls_command();
[[nodiscard]] cli::Command info_command();
[[nodiscard]] cli::Command hash_object_command();
[[nodiscard]] cli::Command verify_command();
[[nodiscard]] cli::Command index_command();
[[nodiscard]] cli::Command repack_command();
[[nodiscard]] cli::Command gc_command();
[[nodiscard]] cli::Command fetch_command();
[[nodiscard]] cli::Command push_command();
[[nodiscard]] cli::Command sync_command();
[[nodiscard]] cli::Command peer_command();
[[nodiscard]] cli::Command delta_command();
[[nodiscard]] cli::Command serve_command();

/// What --vat or VAT_DIR says. Throws usage if neither is given.
[[nodiscard]] std::string named_vat(const cli::Call& call);

/// The vat that --vat or VAT_DIR names.
[[nodiscard]] std::unique_ptr<vat::Vat> open_vat(const cli::Call& call, cli::Output& output);

[[nodiscard]] std::unique_ptr<vat::Vat> open_vat(const std::string& name, cli::Output& output);
/// The same, or a vat on another host, to read from.
[[nodiscard]] std::unique_ptr<vat::BlobSource> open_source(const cli::Call& call, cli::Output& output);
[[nodiscard]] std::unique_ptr<vat::BlobSource> open_source(const std::string& name, const cli::Call& call,
                                                           cli::Output& output);
/// --jobs, 0 if not given.
[[nodiscard]] unsigned jobs(const cli::Call& call);

/// --level, --jobs and --dry-run.
[[nodiscard]] vat::AddOptions add_options(const cli::Call& call);

}  // namespace vat_cli
