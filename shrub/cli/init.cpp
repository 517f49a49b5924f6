#include <filesystem>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/url.h"
#include "formats/base/utf8.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

namespace fs = std::filesystem;
using base::Category;
using base::Error;

/// How VAT.json names a vat: relative where the two lie beside each other, so that they can be moved
/// together.
std::string url_for(const std::string& root, const std::string& vat) {
  const auto relative = fs::path(vat).lexically_relative(root);
  const auto text = relative.string();
  return text.starts_with("../../..") ? vat : text;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto user = user_settings(call, output);
  const auto path = call.find("SHRUB").value_or(".");
  const auto urls = call.all("--vat");
  if (urls.empty())
    throw Error(Category::usage, "init needs at least one --vat", "shrub init --vat ../deps.vat " + path);
  const bool dry_run = call.has("--dry-run");
  formats::VatList list;
  std::optional<base::ObjectFormat> format;
  if (const auto name = call.find("--object-format")) {
    format = base::find_object_format(*name);
    if (!format) throw Error(Category::usage, "--object-format: '" + *name + "' is not sha256 or sha1");
  }
  if (user.config_dir.empty())
    throw Error(Category::usage, "neither XDG_CONFIG_HOME nor HOME is set: nowhere to keep consent");
  const auto root = fs::weakly_canonical(fs::absolute(path)).string();
  std::vector<std::string> paths;
  for (const auto& url : urls) {
    if (vat::is_remote(url))
      throw Error(Category::usage, base::without_secrets(url) + ": init makes and names vats on this disk",
                  "make one, and name the other in VAT.json, too");
    paths.push_back(shrub::full_name(fs::current_path().string(), url));
    list.vats.push_back({url_for(root, paths.back()), list.vats.empty(), {}, {}, {}});
    if (!base::is_utf8(list.vats.back().url))
      throw Error(Category::usage,
                  "vat " + list.vats.back().url + ": VAT.json cannot hold a path that is not UTF-8",
                  "lay the vat beside the shrub, under another name");
  }
  if (!dry_run) base::make_directories(path);
  for (const auto& vat_path : paths) {
    if (!fs::exists(fs::path(vat_path) / "vat.json")) {
      format = format.value_or(base::ObjectFormat::sha256);
      const auto parameters = chunker::make_parameters(chunker::kDefaultExponent);
      if (dry_run)
        (void)vat::Vat::would_create(vat_path, *format, parameters);
      else
        vat::Vat::create(vat_path, *format, parameters);
      output.message((dry_run ? "would make vat " : "made vat ") + vat_path);
    } else {
      const auto opened = vat::Vat::open(vat_path, {user.peers.cache_dir, user.peers.on_note});
      if (format.value_or(opened->object_format()) != opened->object_format())
        throw Error(Category::usage, "vat " + vat_path + ": its object format is " +
                                         std::string(base::to_string(opened->object_format())));
      format = opened->object_format();
    }
  }
  list.object_format = *format;
  if (dry_run) {
    (void)shrub::Shrub::would_create(path, list);
  } else {
    (void)shrub::Shrub::create(path, list);
    for (const auto& vat_path : paths) shrub::trust(user, vat_path);
  }
  if (output.json()) {
    formats::json::Object record{{"object-format", base::to_string(*format)}};
    cli::add_path(record, "shrub", root);
    output.record("init", std::move(record));
  } else {
    output.message("shrub " + root + ", object format " + std::string(base::to_string(*format)));
  }
  return 0;
}

}  // namespace

cli::Command init_command() {
  return {
      "init",
      "Make a new shrub",
      "Writes VAT.json into SHRUB (default: the current directory). The first --vat is where adds go; a vat "
      "that does not "
      "exist is made. Naming a vat here is consent to use it, recorded outside of the repository.",
      {{"SHRUB", cli::Argument::Count::optional, "the directory of the shrub", cli::Completion::directory}},
      {{"--object-format", "FORMAT", "sha256 (default) or sha1, for a vat that is made"},
       cli::dry_run_option()},
      {{"shrub init deps.shrub --vat deps.vat", "a shrub and a vat beside each other"}},
      {8, 10, 11},
      run};
}

}  // namespace shrub_cli
