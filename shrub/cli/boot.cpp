#include <fcntl.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <mutex>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/disk/qcow2_writer.h"
#include "shrub/checkpoints.h"
#include "shrub/cli/acceleration.h"
#include "shrub/cli/child.h"
#include "shrub/cli/lazy_disks.h"
#include "shrub/cli/machine.h"
#include "shrub/cli/signals.h"
#include "vat/content.h"
#include "vat/ingest.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;

constexpr std::uint64_t kMaxKernel = std::uint64_t{1} << 30;  ///< bytes of a kernel or an initrd

Machine read_machine(const std::string& path) {
  const auto is_yaml = path.ends_with(".yaml") || path.ends_with(".yml");
  if (!is_yaml) return machine_of_disk(path);
  const auto text = base::read_file(AT_FDCWD, path, std::size_t{1} << 20);
  auto directory = std::filesystem::path(path).parent_path().string();
  return base::named(path, [&] { return parse_machine(text, directory); });
}

/// A vref, and a path in it behind a colon.
struct InVref {
  std::string vref;
  std::optional<std::string> path;
};
/// nullopt: `from` is a file of the host.
std::optional<InVref> find_vref(const std::string& from) {
  const auto colon = from.find(".vref:");
  if (colon != std::string::npos) return InVref{from.substr(0, colon + 5), from.substr(colon + 6)};
  return from.ends_with(shrub::kVrefSuffix) ? std::optional(InVref{from, std::nullopt}) : std::nullopt;
}

/// A file of the host, or what a vref, or a path in one, says.
void place_file(LazyDisks& disks, const cli::Call& call, const std::string& from, const std::string& to) {
  const auto in_vref = find_vref(from);
  const auto file = base::open_at(AT_FDCWD, to, O_WRONLY | O_CREAT | O_EXCL, 0600);
  const auto write = [&](base::Bytes bytes) { base::write_all(file.get(), bytes); };
  if (!in_vref) {
    write(base::as_bytes(base::read_file(AT_FDCWD, from, kMaxKernel)));
    return;
  }
  const auto named = find_named(in_vref->vref, call);
  const auto vref = named.shrub.read(named.entry);
  auto& source = *disks.vats_of(named.shrub).source;
  const auto content = find_content(source, vref, in_vref->path, named.entry);
  if (!content.target.empty())
    throw Error(Category::usage, from + ": a symlink to " + formats::escape(content.target));
  vat::stream_pinned(source, content.blob, content.recipe, write);
}

std::string quoted(const std::string& argument) {
  if (!argument.empty() && argument.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                      "0123456789-_=+./:,@") == std::string::npos)
    return argument;
  std::string text = "'";
  for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// Files of the host that a machine is given lie beside its description, which may be somebody else's.
void require_inside(const Machine& machine, const std::filesystem::path& directory) {
  const auto place_of = [](const std::filesystem::path& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path).lexically_normal());
  };
  const auto top = place_of(directory.empty() ? "." : directory.lexically_normal());
  const auto require = [&](const std::string& path) {
    const auto place = place_of(path);
    if (std::mismatch(top.begin(), top.end(), place.begin(), place.end()).first != top.end())
      throw Error(Category::refused, path + ": lies outside of the directory of the machine file",
                  "--allow-outside, if the file is to be trusted");
  };
  for (const auto& path : {machine.kernel, machine.initrd})
    if (!path.empty() && !find_vref(path)) require(path);
  for (const auto& wedge : machine.wedges) require(wedge.path);
}

/// What the guest writes, to become a child of the first disk's image.
class Commit {
 public:
  Commit(const cli::Call& call, const Machine& machine, cli::Output& output)
      : addition_(begin_addition(call, output, "--commit")), name_(call.get("--commit")), output_(output) {
    if (call.has("--ephemeral")) throw Error(Category::usage, "--ephemeral or --commit, not both");
    if (machine.disks.empty() || !machine.disks.front().is_writable)
      throw Error(Category::usage, "--commit: there is no first disk that can be written");
  }

  void require_image(const LazyDisk& disk, const std::string& path) const {
    if (disk.vref.type != formats::Vref::Type::image) throw Error(Category::usage, path + ": not an image");
    // Its chunks lie in the vats of its shrub, and only what is new goes to those of the child's.
    if (addition_.named.shrub.root() != disk.named.shrub.root())
      throw Error(Category::usage, name_ + ": lies in another shrub than the image");
  }

  void run(const std::string& overlay, const LazyDisk& parent) {
    vat::Adder adder(addition_.vat(), addition_.options);
    vat::ImageOptions options;
    options.base = vat::ImageBase{parent.vats->source.get(), *parent.vref.recipe, true};
    options.open_disk = [&](int fd) {
      return formats::open_qcow2(base::reader_of(fd), base::file_size(fd), parent.open());
    };
    const auto image = vat::ingest_image(
        overlay, adder, profile_for(parent.vref, *parent.vats->source, addition_.vat()), options,
        [&](std::uint64_t done) { output_.progress("added", done, parent.vref.size); });
    const auto summary = adder.finish();
    formats::Vref vref;
    vref.type = formats::Vref::Type::image;
    vref.recipe = image.recipe;
    vref.size = image.size;
    vref.parent = shrub::parent_of_child(parent.vref, image.recipe);
    finish_addition(addition_, std::move(vref), summary, output_);
  }

  /// What was written is not lost because it could not be committed; `error` is why, and gets to say where it
  /// is.
  [[nodiscard]] Error keep(const std::string& overlay, const Error& error) const {
    const auto kept = addition_.vat().path() + "/tmp/uncommitted-" + base::random_name() + ".qcow2";
    std::error_code failure;
    std::filesystem::copy_file(overlay, kept, failure);
    return failure ? error
                   : Error(error.category(), std::string(error.what()) + "; nothing was committed",
                           "what was written is in " + kept + ", a qcow2 above the image");
  }

 private:
  const Addition addition_;
  const std::string name_;
  cli::Output& output_;
};

/// The disks of a machine as they are served to it, and the first thing that is wrong with one of them.
class ServedDisks {
 public:
  ServedDisks(const Machine& machine, const MachinePlaces& places, LazyDisks& disks) {
    for (std::size_t i = 0; i < machine.disks.size(); ++i) {
      opened_.push_back(disks.open(machine.disks[i].vref));
      exports_.push_back(opened_.back().export_as("disk" + std::to_string(i), [this](const Error& error) {
        const std::lock_guard lock(mutex_);
        if (damage_) return;
        damage_.emplace(error);
        damaged_.notify();
      }));
      if (places.overlays[i].empty()) continue;
      const auto overlay = base::open_at(AT_FDCWD, places.overlays[i], O_RDWR | O_CREAT | O_EXCL, 0600);
      // Guests know whole sectors only; behind the end of what lies below are zeros.
      const auto size = (opened_.back().vref.size + kSector - 1) / kSector * kSector;
      formats::write_qcow2(*formats::make_empty_disk(size), overlay.get());
    }
  }

  [[nodiscard]] const LazyDisk& first() const { return opened_.front(); }
  /// Runs QEMU beside their server.
  [[nodiscard]] Child::Ended run(const std::vector<std::string>& arguments, const std::string& socket,
                                 const Signals& signals, cli::Output& output) {
    const wedge::NbdServer server(wedge::listen_at(socket), std::move(exports_),
                                  [&](const std::string& what) { output.warning(what); });
    return Child(arguments, "shrub doctor says what is missing").wait(signals, damaged_);
  }
  /// Once no server is there any more.
  [[nodiscard]] const std::optional<Error>& damage() const noexcept { return damage_; }

 private:
  static constexpr std::uint64_t kSector = 512;  ///< bytes
  std::vector<LazyDisk> opened_;
  std::vector<wedge::NbdDisk> exports_;
  std::mutex mutex_;  ///< guards damage_
  std::optional<Error> damage_;
  const Notice damaged_;
};

/// nullopt: it ended by itself, and all is well.
std::optional<Error> find_failure(const Child::Ended& ended) {
  if (WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 0) return std::nullopt;
  return Error(Category::local,
               "qemu-system-x86_64 ended with " +
                   (WIFEXITED(ended.status) ? "exit code " + std::to_string(WEXITSTATUS(ended.status))
                                            : "signal " + std::to_string(WTERMSIG(ended.status))));
}

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.get("MACHINE");
  const auto machine = read_machine(path);
  if (!call.has("--allow-outside")) require_inside(machine, std::filesystem::path(path).parent_path());
  const auto acceleration = find_acceleration();
  using Wanted = Machine::Acceleration;
  const cli::Scratch scratch;
  MachinePlaces places;
  places.kvm = machine.acceleration == Wanted::kvm ||
               (machine.acceleration == Wanted::automatic && acceleration.is_usable);
  // Not in the scratch directory: names of sockets have to be short.
  places.socket = (std::filesystem::temp_directory_path() / ("shrub-" + base::random_name())).string();
  for (std::size_t i = 0; i < machine.disks.size(); ++i)
    places.overlays.push_back(
        machine.disks[i].is_writable ? scratch.path() + "/disk" + std::to_string(i) + ".qcow2" : "");
  if (!machine.kernel.empty()) places.kernel = scratch.path() + "/kernel";
  if (!machine.initrd.empty()) places.initrd = scratch.path() + "/initrd";
  const auto arguments = qemu_arguments(machine, places);
  if (call.has("--dry-run")) {
    std::string line;
    for (const auto& argument : arguments) line += (line.empty() ? "" : " ") + quoted(argument);
    output.line(line);
    return 0;
  }
  std::optional<Commit> commit;
  if (call.has("--commit")) commit.emplace(call, machine, output);

  const Signals signals;
  LazyDisks disks(call, output);
  ServedDisks served(machine, places, disks);
  if (commit) commit->require_image(served.first(), machine.disks.front().vref);
  disks.prefetch();
  if (!machine.kernel.empty()) place_file(disks, call, machine.kernel, places.kernel);
  if (!machine.initrd.empty()) place_file(disks, call, machine.initrd, places.initrd);
  if (!places.kvm && machine.acceleration == Wanted::automatic)
    output.detail("emulation: " + acceleration.reason);

  const auto ended = served.run(arguments, places.socket, signals, output);
  disks.report();
  // A guest that was not given what its disk holds is not run on.
  auto failure = served.damage() ? served.damage() : find_failure(ended);
  if (ended.signal != 0 && !served.damage()) {
    if (commit)
      output.warning(
          commit->keep(places.overlays.front(), Error(Category::local, "ended by a signal")).hint());
    return 128 + ended.signal;
  }
  if (commit && !failure) {
    try {
      commit->run(places.overlays.front(), served.first());
    } catch (const Error& error) {
      failure.emplace(error);
    }
  }
  if (!failure) return 0;
  throw commit ? commit->keep(places.overlays.front(), *failure) : Error(*failure);
}

}  // namespace

cli::Command boot_command() {
  auto options = cli::fetch_options();
  for (auto& option : trace_options()) options.push_back(std::move(option));
  options.insert(
      options.begin(),
      {{"--ephemeral", "", "throw away what the guest writes (the default)"},
       {"--commit", "VREF",
        "when the guest has powered off, store its first disk as this vref, a child of the one "
        "that was booted",
        cli::Completion::file},
       {"--allow-outside", "", "let a machine file name kernels and wedges outside of its own directory"},
       {"--level", "N", "zstd level of what --commit stores, 1 to 19 (default 3)"},
       {"-n,--dry-run", "", "print the command line of QEMU, and do no more"},
       revision_option()});
  return {
      "boot",
      "Run a virtual machine from an image",
      "Runs QEMU on the image of a vref, or on the machine that a small YAML file describes, with its serial "
      "console on this terminal. Disks are fetched as they are read, and proven before the guest sees "
      "them. What the guest writes is kept in a file that goes with the machine.\n\n"
      "A machine file has the keys memory (1G), cpus (2), disks (vrefs, or vref and read-only), kernel "
      "and initrd (a file, a vref of one, or TREE.vref:PATH), append, network (false), wedges (path and "
      "tag, for the 9p file system of the guest, read-only) and acceleration (auto, kvm or emulation). "
      "Paths are relative to the file.",
      {{"MACHINE", cli::Argument::Count::one, "a vref of an image, or a file .yaml", cli::Completion::file}},
      options,
      {{"shrub init images.shrub --vat images.vat",
        "from a qcow2 image to a machine: first a shrub and a vat"},
       {"shrub add-image debian.qcow2 images.shrub/debian.vref", "then the image"},
       {"shrub boot images.shrub/debian.vref",
        "and it runs; with --vat URL from any host that serves the vat"},
       {"shrub boot --commit images.shrub/debian-1.vref images.shrub/debian.vref",
        "keep what was done as a checkpoint"},
       {"shrub boot --dry-run vm.yaml", "see how QEMU is called"}},
      {4, 5, 6, 7, 8, 9, 10, 11, 12},
      run};
}

}  // namespace shrub_cli
