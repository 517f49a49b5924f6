#include <grp.h>

#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

/// What --shared[=GROUP] says; the group by name or number.
std::optional<vat::Sharing> sharing(const cli::Call& call) {
  if (!call.has("--shared")) return std::nullopt;
  const auto& name = call.get("--shared");
  if (name == "true" || name == "group") return vat::Sharing();  // "group" is git's word
  if (const auto number = base::parse_decimal(name)) return vat::Sharing{static_cast<gid_t>(*number)};
  const auto* group = ::getgrnam(name.c_str());
  if (group == nullptr) throw Error(Category::usage, "--shared: there is no group '" + name + "'");
  return vat::Sharing{group->gr_gid};
}

int run(const cli::Call& call, cli::Output& output) {
  const auto name = call.find("--object-format").value_or("sha256");
  const auto format = base::find_object_format(name);
  if (!format) throw Error(Category::usage, "--object-format: '" + name + "' is not sha256 or sha1");
  const auto profile =
      call.find("--chunker").value_or(chunker::make_parameters(chunker::kDefaultExponent).id());
  const auto parameters = chunker::find_parameters(profile);
  if (!parameters) throw Error(Category::usage, "--chunker: '" + profile + "' is not vg1:a=13 … vg1:a=20");
  const auto path = call.get("DIR");
  const auto share = sharing(call);
  if (call.has("--dry-run"))
    (void)vat::Vat::would_create(path, *format, *parameters, share);
  else
    vat::Vat::create(path, *format, *parameters, share);
  if (output.json()) {
    formats::json::Object record{{"object-format", base::to_string(*format)}, {"chunker", parameters->id()}};
    cli::add_path(record, "vat", path);
    output.record("init", std::move(record));
  } else {
    output.message("vat " + path + ", object format " + name + ", chunker " + parameters->id());
  }
  return 0;
}

}  // namespace

cli::Command init_command() {
  return {"init",
          "Make a new, empty vat",
          "Makes a vat in DIR, which must not exist or be empty. Object format and chunker profile never "
          "change later. "
          "Making the same vat again does nothing.",
          {{"DIR", cli::Argument::Count::one, "where the vat goes", cli::Completion::directory}},
          {{"--object-format", "FORMAT", "sha256 (default) or sha1: how blobs are named"},
           {"--chunker", "PROFILE", "vg1:a=13 … vg1:a=20, average chunk 2^a bytes (default vg1:a=16)"},
           {"--shared", "[GROUP]",
            "let a group add and change what is in the vat: GROUP, else that of the directory; never changes "
            "later"},
           cli::dry_run_option()},
          {{"vat init deps.vat", "a vat beside a repository"},
           {"vat init --shared=staff /srv/vat", "one for all members of a group"},
           {"vat init --object-format sha1 old.vat", "ids equal to those of ordinary git repositories"}},
          {8},
          run};
}

}  // namespace vat_cli
