#include <filesystem>

#include "formats/base/error.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto user = user_settings(call, output);
  for (const auto& path : call.all("--times")) {
    const auto full = shrub::full_name(std::filesystem::current_path().string(), "file://" + path);
    if (!std::filesystem::exists(full)) throw base::Error(base::Category::not_found, path + ": is not there");
    if (!call.has("--dry-run")) shrub::trust_times(user.config_dir, full);
    output.message("trusting times on the file system of " + full);
  }
  if (call.all("VAT").empty() && !call.has("--times")) throw base::Error(base::Category::usage, "no VAT");
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
  return {
      "trust",
      "Consent to a vat that a VAT.json names",
      "A file in a repository cannot make programs read or write elsewhere on its own. This records, in "
      "trust.json of your "
      "configuration directory, that shrubs may use VAT: a directory, or the URL of a vat on another "
      "host exactly as "
      "VAT.json has it, which may then be on your own machine and is given what you log in with.\n\n"
      "--times records that a file whose size and times are as they were has the content it had, also on the "
      "file system of PATH and on those mounted below it, of which shrub does not believe that: images, FUSE "
      "and network file systems.",
      {{"VAT", cli::Argument::Count::any, "a directory or a URL", cli::Completion::directory}},
      {{"--times", "PATH", "take the times of files on that file system for their content's",
        cli::Completion::directory, true},
       cli::dry_run_option()},
      {{"shrub trust /srv/deps.vat", "once for each such vat"},
       {"shrub trust ssh://mirror.example.org/srv/deps.vat", "one that wants a login"},
       {"shrub trust --times /home", "a home folder on NFS, whose files nobody replaces behind your back"}},
      {5, 8},
      run};
}

}  // namespace shrub_cli
