#include "cli/environment.h"
#include "formats/base/error.h"
#include "vat/cli/verbs.h"

namespace vat_cli {

std::unique_ptr<vat::Vat> open_vat(const cli::Call& call, cli::Output& output) {
  auto path = call.find("--vat");
  if (!path) path = cli::find_variable("VAT_DIR");
  if (!path)
    throw base::Error(base::Category::usage, "which vat? neither --vat nor VAT_DIR is given",
                      "vat --vat DIR …");
  if (path->starts_with("file://")) path = path->substr(7);
  if (path->find("://") != std::string::npos)
    throw base::Error(base::Category::usage, *path + ": only vats on the local disk can be used");
  return vat::Vat::open(
      *path, {cli::cache_directory(), [&output](const std::string& note) { output.warning(note); }});
}

unsigned jobs(const cli::Call& call) {
  return static_cast<unsigned>(call.number("--jobs", 0, 1, 256));
}

vat::AddOptions add_options(const cli::Call& call) {
  vat::AddOptions options;
  options.threads = jobs(call);
  options.level = static_cast<int>(call.number("--level", formats::kDefaultLevel, 1, 19));
  options.dry_run = call.has("--dry-run");
  return options;
}

}  // namespace vat_cli
