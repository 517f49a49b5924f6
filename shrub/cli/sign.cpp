#include <filesystem>

#include "formats/base/error.h"
#include "shrub/cli/verbs.h"
#include "shrub/signature.h"

namespace shrub_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_written(call.get("VREF"));
  const auto name =
      call.find("--name").value_or(std::filesystem::path(named.shrub.root()).filename().string());
  const auto statement = shrub::sign(named.shrub, named.entry, name, call.get("--key"));
  if (output.json()) {
    formats::json::Object record{{"version", statement.version}, {"digest", statement.digest}};
    cli::add_path(record, "name", statement.name);
    output.record("sign", std::move(record));
  } else {
    output.message(named.entry + shrub::kSignatureSuffix + ": version " + std::to_string(statement.version) +
                   " of " + statement.name);
  }
  return 0;
}

}  // namespace

cli::Command sign_command() {
  return {"sign",
          "Vouch for a vref with a key of SSH",
          "Writes VREF.sig beside VREF: its name, a version that goes up each time, the SHA-256 of its text, "
          "and a "
          "signature of that by ssh-keygen. Whoever has the public key in allowed_signers (see `verify "
          "--signed`) can "
          "tell that the vref, and with it every byte it pins, is what was signed.",
          {{"VREF", cli::Argument::Count::one, "a vref, in a shrub", cli::Completion::file}},
          {{"--key", "FILE", "the private key, or a public one whose private one ssh-agent has",
            cli::Completion::file, false, true},
           {"--name", "NAME", "what the shrub is called (default: its directory)"}},
          {{"shrub sign --key ~/.ssh/id_ed25519 deps.shrub/gcc.vref", "then commit both"}},
          {5, 8, 9, 10},
          run};
}

}  // namespace shrub_cli
