#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <mutex>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/disk/qcow2_writer.h"
#include "shrub/cli/acceleration.h"
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

/// A file of the host, or what a vref, or a path in one, says.
void place_file(LazyDisks& disks, const cli::Call& call, const std::string& from, const std::string& to) {
  const auto colon = from.find(".vref:");
  const auto vref_path = colon == std::string::npos ? from : from.substr(0, colon + 5);
  const auto file = base::open_at(AT_FDCWD, to, O_WRONLY | O_CREAT | O_EXCL, 0600);
  const auto write = [&](base::Bytes bytes) { base::write_all(file.get(), bytes); };
  if (!vref_path.ends_with(shrub::kVrefSuffix)) {
    write(base::as_bytes(base::read_file(AT_FDCWD, from, kMaxKernel)));
    return;
  }
  const auto named = find_named(vref_path, call);
  const auto vref = named.shrub.read(named.entry);
  auto& source = *disks.vats_of(named.shrub).source;
  const auto content = find_content(
      source, vref, colon == std::string::npos ? std::nullopt : std::optional(from.substr(colon + 6)),
      named.entry);
  if (!content.target.empty())
    throw Error(Category::usage, from + ": a symlink to " + formats::escape(content.target));
  if (content.recipe)
    vat::stream_recipe(source, *content.recipe, {}, write);
  else
    source.stream(content.blob.value(), write);
}

std::string quoted(const std::string& argument) {
  if (!argument.empty() && argument.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                      "0123456789-_=+./:,@") == std::string::npos)
    return argument;
  std::string text = "'";
  for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// Wakes who polls.
class Notice {
 public:
  Notice() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (fd_.get() < 0) base::throw_errno("eventfd", errno);
  }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  void notify() const noexcept { (void)::eventfd_write(fd_.get(), 1); }
  void take() const noexcept {
    eventfd_t count = 0;
    (void)::eventfd_read(fd_.get(), &count);
  }

 private:
  base::UniqueFd fd_;
};

/// QEMU, with the terminal. Ends with this process, whatever becomes of that.
class Child {
 public:
  explicit Child(std::vector<std::string> arguments) {
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) base::throw_errno("pipe", errno);
    const base::UniqueFd read_end(ends[0]);
    base::UniqueFd write_end(ends[1]);
    const auto parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) base::throw_errno("begin a process", errno);
    if (pid_ == 0) {
      (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
      sigset_t none;
      ::sigemptyset(&none);
      (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
      if (::getppid() == parent) ::execvp(argv.front(), argv.data());
      const int failure = errno;
      (void)::write(write_end.get(), &failure, sizeof failure);
      ::_exit(127);
    }
    write_end.reset();
    int failure = 0;
    if (::read(read_end.get(), &failure, sizeof failure) == sizeof failure) {
      (void)::waitpid(pid_, nullptr, 0);
      if (failure == ENOENT)
        throw Error(Category::local, "no qemu-system-x86_64 on PATH", "shrub doctor says what is missing");
      base::throw_errno("run " + arguments.front(), failure);
    }
    handle_ = base::UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (handle_.get() < 0) base::throw_errno("pidfd_open", errno);
  }
  ~Child() {
    if (pid_ <= 0) return;
    (void)::kill(pid_, SIGKILL);
    (void)::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Its status, once it has ended; a notice or a signal ends it, and then `signal` is that.
  int wait(const Signals& signals, const Notice& notice, int& signal) {
    while (true) {
      pollfd fds[] = {{handle_.get(), POLLIN, 0}, {signals.fd(), POLLIN, 0}, {notice.fd(), POLLIN, 0}};
      if (::poll(fds, 3, -1) < 0 && errno != EINTR) base::throw_errno("poll", errno);
      if (fds[2].revents & POLLIN) {
        notice.take();
        (void)::kill(pid_, SIGTERM);
      }
      if (fds[1].revents & POLLIN) {
        signal = signals.take();
        (void)::kill(pid_, SIGTERM);
      }
      if (fds[0].revents == 0) continue;
      int status = 0;
      (void)::waitpid(pid_, &status, 0);
      pid_ = -1;
      return status;
    }
  }

 private:
  pid_t pid_ = -1;
  base::UniqueFd handle_;
};

/// What was written becomes a child of the image.
void commit(const std::string& overlay, const LazyDisk& parent, const Addition& addition,
            cli::Output& output) {
  vat::Adder adder(addition.vat(), addition.options);
  vat::ImageOptions options;
  options.base = vat::ImageBase{parent.vats->source.get(), *parent.vref.recipe, true};
  options.open_disk = [&](int fd) {
    return formats::open_qcow2(base::reader_of(fd), base::file_size(fd), parent.open());
  };
  const auto image = vat::ingest_image(
      overlay, adder, profile_for(parent.vref, *parent.vats->source, addition.vat()), options,
      [&](std::uint64_t done) { output.progress("added", done, parent.vref.size); });
  const auto summary = adder.finish();
  formats::Vref vref;
  vref.type = formats::Vref::Type::image;
  vref.recipe = image.recipe;
  vref.size = image.size;
  vref.parent = image.recipe == *parent.vref.recipe ? parent.vref.parent : parent.vref.recipe;
  finish_addition(addition, std::move(vref), summary, output);
}

int run(const cli::Call& call, cli::Output& output) {
  const auto machine = read_machine(call.get("MACHINE"));
  const auto acceleration = find_acceleration();
  using Wanted = Machine::Acceleration;
  MachinePlaces places;
  places.kvm = machine.acceleration == Wanted::kvm ||
               (machine.acceleration == Wanted::automatic && acceleration.is_usable);
  const cli::Scratch scratch;
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
  const bool commits = call.has("--commit");
  if (commits && call.has("--ephemeral")) throw Error(Category::usage, "--ephemeral or --commit, not both");
  if (commits && (machine.disks.empty() || !machine.disks.front().is_writable))
    throw Error(Category::usage, "--commit: there is no first disk that can be written");
  std::optional<Addition> addition;
  if (commits) addition.emplace(begin_addition(call, output, "--commit"));

  const Signals signals;
  base::make_directories(scratch.path());
  LazyDisks disks(call, output);
  // A guest that is not given what its disk holds is not run on.
  std::mutex mutex;
  std::optional<Error> damage;
  const Notice damaged;
  std::vector<LazyDisk> opened;
  std::vector<wedge::NbdDisk> exports;
  for (std::size_t i = 0; i < machine.disks.size(); ++i) {
    opened.push_back(disks.open(machine.disks[i].vref));
    exports.push_back(opened.back().export_as("disk" + std::to_string(i), [&](const Error& error) {
      const std::lock_guard lock(mutex);
      if (damage) return;
      damage.emplace(error);
      damaged.notify();
    }));
    if (places.overlays[i].empty()) continue;
    const auto overlay = base::open_at(AT_FDCWD, places.overlays[i], O_RDWR | O_CREAT | O_EXCL, 0600);
    formats::write_qcow2(*formats::make_empty_disk(opened.back().vref.size), overlay.get(), std::nullopt);
  }
  if (commits && opened.front().vref.type != formats::Vref::Type::image)
    throw Error(Category::usage, machine.disks.front().vref + ": not an image");
  // Its chunks lie in the vats of its shrub, and only what is new goes to those of the child's.
  if (commits && addition->named.shrub.root() != opened.front().named.shrub.root())
    throw Error(Category::usage, call.get("--commit") + ": lies in another shrub than the image");
  disks.prefetch();
  if (!machine.kernel.empty()) place_file(disks, call, machine.kernel, places.kernel);
  if (!machine.initrd.empty()) place_file(disks, call, machine.initrd, places.initrd);
  if (!places.kvm && machine.acceleration == Wanted::automatic)
    output.detail("emulation: " + acceleration.reason);

  int signal = 0, status = 0;
  {
    const wedge::NbdServer server(wedge::listen_at(places.socket), std::move(exports),
                                  [&](const std::string& what) { output.warning(what); });
    Child qemu(arguments);
    status = qemu.wait(signals, damaged, signal);
  }
  disks.report();
  // What was written is not lost because it could not be committed.
  const auto keep = [&](const Error& error) {
    if (!commits) return error;
    const auto kept = addition->vat().path() + "/tmp/uncommitted-" + base::random_name() + ".qcow2";
    std::error_code failure;
    std::filesystem::copy_file(places.overlays.front(), kept, failure);
    return failure ? error
                   : Error(error.category(), std::string(error.what()) + "; nothing was committed",
                           "what was written is in " + kept + ", a qcow2 above the image");
  };
  if (damage) throw Error(keep(*damage));
  if (signal != 0) {
    if (commits) output.warning(keep(Error(Category::local, "ended by a signal")).hint());
    return 128 + signal;
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw keep(
        Error(Category::local, "qemu-system-x86_64 ended with " +
                                   (WIFEXITED(status) ? "exit code " + std::to_string(WEXITSTATUS(status))
                                                      : "signal " + std::to_string(WTERMSIG(status)))));
  if (commits) {
    try {
      commit(places.overlays.front(), opened.front(), *addition, output);
    } catch (const Error& error) {
      throw keep(error);
    }
  }
  return 0;
}

}  // namespace

cli::Command boot_command() {
  auto options = cli::fetch_options();
  for (auto& option : trace_options()) options.push_back(std::move(option));
  options.insert(options.begin(),
                 {{"--ephemeral", "", "throw away what the guest writes (the default)"},
                  {"--commit", "VREF",
                   "when the guest has powered off, store its first disk as this vref, a child of the one "
                   "that was booted",
                   cli::Completion::file},
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
