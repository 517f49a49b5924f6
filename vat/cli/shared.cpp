#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "vat/cli/verbs.h"

namespace vat_cli {

std::string named_vat(const cli::Call& call) {
  auto name = call.find("--vat");
  if (!name) name = cli::find_variable("VAT_DIR");
  if (!name)
    throw base::Error(base::Category::usage, "which vat? neither --vat nor VAT_DIR is given",
                      "vat --vat DIR …");
  return name->starts_with("file://") ? name->substr(7) : *name;
}

std::unique_ptr<vat::Vat> open_vat(const cli::Call& call, cli::Output& output) {
  return open_vat(named_vat(call), output);
}

std::unique_ptr<vat::Vat> open_vat(const std::string& name, cli::Output& output) {
  if (vat::is_remote(name))
    throw base::Error(base::Category::usage, name + ": this works on vats on the local disk only");
  return vat::Vat::open(
      name, {cli::cache_directory(), [&output](const std::string& note) { output.warning(note); }});
}

std::unique_ptr<vat::BlobSource> open_source(const cli::Call& call, cli::Output& output) {
  return open_source(named_vat(call), call, output);
}

std::unique_ptr<vat::BlobSource> open_source(const std::string& name, const cli::Call& call,
                                             cli::Output& output) {
  if (!vat::is_remote(name)) return open_vat(name, output);
  return vat::PeerSet::open(cli::address_of(name), cli::peer_options(call, output));
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
