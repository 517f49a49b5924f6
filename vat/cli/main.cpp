#include "vat/cli/verbs.h"

namespace {

cli::Program describe() {
  cli::Program program{
      "vat",
      SHRUB_VERSION,
      "Store of immutable blobs, named as git names them",
      "A vat holds the bytes of big binary things: blobs named by the id that git hash-object gives them, "
      "cut by "
      "content, deduplicated and compressed, in immutable files that any dumb host can serve.\n\n"
      "The vat is named by --vat or by the variable VAT_DIR.",
      {{"--vat", "DIR|URL", "the vat to use (default: $VAT_DIR)", cli::Completion::directory}},
      {vat_cli::init_command(), vat_cli::add_command(), vat_cli::cat_command(), vat_cli::get_command(),
       vat_cli::has_command(), vat_cli::ls_command(), vat_cli::info_command(), vat_cli::hash_object_command(),
       vat_cli::verify_command(), vat_cli::index_command(), vat_cli::repack_command(), vat_cli::gc_command(),
       vat_cli::fetch_command(), vat_cli::push_command(), vat_cli::sync_command(), vat_cli::peer_command(),
       vat_cli::delta_command(), vat_cli::serve_command()}};
  for (auto& option : cli::common_options()) program.options.push_back(std::move(option));
  return program;
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run(describe, argc, argv);
}
