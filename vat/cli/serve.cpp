#include "vat/serve.h"

#include <unistd.h>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  if (!call.has("--stdio"))
    throw base::Error(base::Category::usage, "serve: say over what: --stdio",
                      "static hosts need no server: any that serves files will do");
  const auto opened = open_vat(call, output);
  vat::serve(
      *opened, [](base::MutableBytes bytes) { return base::read_available(STDIN_FILENO, bytes); },
      [](base::Bytes bytes) { base::write_all(STDOUT_FILENO, bytes); });
  return 0;
}

}  // namespace

cli::Command serve_command() {
  return {"serve",
          "Answer another vat's requests over ssh",
          "Reads requests from standard input and writes answers to standard output: what the other side "
          "needs of a root, and has not, in one stream. It is started by whoever reads from ssh://HOST/PATH, "
          "if vat is installed there; if not, the files are read over SFTP. It only reads the vat.",
          {},
          {{"--stdio", "", "over standard input and output"}},
          {{"vat serve --stdio --vat /srv/deps.vat", "what shrub sync runs at the other end"}},
          {4, 5, 10},
          run};
}

}  // namespace vat_cli
