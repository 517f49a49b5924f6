#include "cli/holes.h"
#include "formats/base/file.h"
#include "shrub/checkpoints.h"
#include "shrub/cli/verbs.h"
#include "shrub/image_file.h"
#include "vat/ingest.h"

namespace shrub_cli {
namespace {

/// The image of --parent.
std::optional<formats::Vref> find_parent(const cli::Call& call, const Addition& addition) {
  if (!call.has("--parent")) return std::nullopt;
  const auto named = find_named(call.get("--parent"), call);
  if (named.shrub.root() != addition.named.shrub.root())
    throw base::Error(base::Category::usage, call.get("--parent") + ": lies in another shrub");
  auto vref = named.shrub.read(named.entry);
  if (vref.type != formats::Vref::Type::image)
    throw base::Error(base::Category::usage, call.get("--parent") + ": not an image");
  return vref;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.get("DISK");
  const auto addition = begin_addition(call, output);
  const auto parent = find_parent(call, addition);
  const auto form = call.find("--materialize");
  if (form && *form != "raw" && *form != "qcow2" && *form != "qcow2-zstd" && *form != "qcow2-overlay")
    throw base::Error(base::Category::usage,
                      "--materialize: '" + *form + "' is not raw, qcow2, qcow2-zstd or qcow2-overlay");
  shrub::ImageFile file(path, {call.has("--exact"), call.has("--force"), call.all("--backing"),
                               addition.vat().path() + "/tmp"});
  vat::Adder adder(addition.vat(), addition.options);
  vat::ImageOptions options;
  options.name_content = call.has("--git-id");
  options.max_holes = cli::allowed_holes(call, options.max_holes);
  if (const auto& like = addition.before && addition.before->recipe ? addition.before : parent)
    options.base = {addition.vats.source.get(), *like->recipe};
  options.open_disk = [&](int fd) { return file.open(fd); };
  const auto image = vat::ingest_image(
      file.path(), adder,
      profile_for(addition.before ? addition.before : parent, *addition.vats.source, addition.vat()), options,
      [&](std::uint64_t done) { output.progress("added", done, 0); });
  file.require_unchanged();
  const auto summary = adder.finish();

  formats::Vref vref;
  vref.type = formats::Vref::Type::image;
  vref.blob = image.blob;
  vref.recipe = image.recipe;
  vref.size = image.size;
  if (parent)
    vref.parent = shrub::parent_of_child(*parent, image.recipe);
  else if (addition.before)
    vref.parent = addition.before->parent;
  if (addition.before) vref.materialize = addition.before->materialize;
  if (form) vref.materialize = *form == "raw" ? "" : *form;
  finish_addition(addition, std::move(vref), summary, output);
  return 0;
}

}  // namespace

cli::Command add_image_command() {
  return {
      "add-image",
      "Store a disk image and write its vref",
      "Stores DISK in the writable vat and writes VREF, which pins it. DISK is a raw image; or qcow2, with "
      "the disks below it; or, if qemu-img is installed, VMDK, VDI, VHDX or VHD. What looks like another "
      "format, or is compressed, is refused. What is stored is the disk that a guest sees. Holes and long "
      "runs of zeros cost nothing, and sync makes them holes "
      "again.\n\nA qcow2 image can name the disk below it. It is read if it lies in the same directory, or "
      "below, under a relative name and with its format said; --backing is for others.",
      {{"DISK", cli::Argument::Count::one, "the image, a regular file", cli::Completion::file},
       {"VREF", cli::Argument::Count::one, "the vref, in a shrub", cli::Completion::file}},
      {{"--parent", "VREF", "the image it was made from, which VREF then names", cli::Completion::file},
       {"--materialize",
        "FORM",
        "what sync makes of it: raw, qcow2, qcow2-zstd (compressed), or qcow2-overlay, which stands on what "
        "the "
        "parent is in the wedge (default: as the vref says, else raw)",
        cli::Completion::none,
        false,
        false,
        {"raw", "qcow2", "qcow2-zstd", "qcow2-overlay"}},
       {"--exact", "", "store the bytes of DISK as they are, whatever its format"},
       {"--force", "", "also if QEMU has DISK open: what a machine writes meanwhile may be half there"},
       {"--backing", "FILE", "the disk below, in place of the one that is named; again for the next below",
        cli::Completion::file, true},
       {"--git-id", "", "name the content as git does as well, which hashes all of it"},
       {"--level", "N", "zstd level, 1 to 19 (default 3)"},
       cli::holes_option(),
       cli::dry_run_option()},
      {{"shrub add-image debian.raw images.shrub/debian.vref", "one image"},
       {"shrub add-image --parent images.shrub/debian.vref snapshot.qcow2 images.shrub/debian-1.vref",
        "a checkpoint of it"}},
      {5, 8, 10, 11},
      run};
}

}  // namespace shrub_cli
