#include "shrub/cli/verbs.h"

namespace {

cli::Program describe() {
  using namespace shrub_cli;
  cli::Program program{
      "shrub",
      SHRUB_VERSION,
      "Manifests of big binary things, kept in git",
      "A shrub is a folder of small .vref files in a git repository: checksum and "
      "provenance of one tree, file or image each. "
      "Their bytes lie in vats, which VAT.json at the top of the shrub names. A wedge is "
      "where the things themselves are put.",
      {{"--vat", "DIR|URL", "use this vat instead of those VAT.json names; may be repeated",
        cli::Completion::directory, true}},
      {init_command(),    trust_command(),     add_command(),       add_url_command(), url_for_command(),
       add_dir_command(), add_image_command(), add_trace_command(), watch_command(),   sync_command(),
       status_command(),  verify_command(),    ls_command(),        cat_command(),     diff_command(),
       fetch_command(),   push_command(),      mount_command(),     mounts_command(),  nbd_command(),
       boot_command(),    tree_command(),      doctor_command(),    log_command(),     reachable_command(),
       is_live_command(), gc_command(),        sign_command()}};
  for (auto& option : cli::common_options()) program.options.push_back(std::move(option));
  return program;
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run(describe, argc, argv);
}
