#include <filesystem>

#include "formats/base/error.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto user = user_settings(call, output);
  for (const auto& url : call.all("VAT")) {
    const auto path = shrub::full_name(std::filesystem::current_path().string(), url);
    if (!call.has("--dry-run")) shrub::trust(user, path);
    output.message("trusting vat " + path);
    if (!vat::is_remote(path) && !std::filesystem::exists(path + "/vat.json"))
      output.warning(path + ": there is no vat now");
  }
  return 0;
}

}  // namespace

cli::Command trust_command() {
  return {"trust",
          "Consent to a vat that a VAT.json names",
          "A file in a repository cannot make programs read or write elsewhere on its own. This records, in "
          "trust.json of your "
          "configuration directory, that shrubs may use VAT: a directory, or the URL of a vat on another "
          "host exactly as "
          "VAT.json has it, which may then be on your own machine and is given what you log in with.",
          {{"VAT", cli::Argument::Count::some, "a directory or a URL", cli::Completion::directory}},
          {cli::dry_run_option()},
          {{"shrub trust /srv/deps.vat", "once for each such vat"},
           {"shrub trust ssh://mirror.example.org/srv/deps.vat", "one that wants a login"}},
          {8},
          run};
}

}  // namespace shrub_cli
