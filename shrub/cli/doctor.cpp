#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "cli/environment.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "formats/base/process.h"
#include "shrub/cli/acceleration.h"
#include "shrub/cli/verbs.h"

namespace shrub_cli {
namespace {

/// One thing this machine has or has not.
struct Finding {
  std::string name;
  bool is_there = false;
  std::string says;
  std::string help;  ///< what to do about it; empty: nothing, or it need not be
};

std::string first_line(const std::string& path) {
  auto text = read_kernel_file(path);
  text.resize(std::min(text.find('\n'), text.size()));
  return text;
}

/// What a program says to --version, in one line; empty: it cannot be run.
std::string version_of(const std::string& program) {
  try {
    base::Process child({program, "--version"});
    auto text = child.read_rest();
    if (child.finish() != 0) return {};
    text.resize(std::min(text.find('\n'), text.size()));
    return text;
  } catch (const base::Error&) {
    return {};
  }
}

Finding find_program(const std::string& program, const std::string& package, const std::string& use) {
  const auto version = version_of(program);
  return {program, !version.empty(), version.empty() ? "not found; for " + use : version,
          version.empty() ? "install " + package : ""};
}

Finding find_fuse() {
  const base::UniqueFd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (fuse.get() < 0)
    return {"fuse", false, std::string("/dev/fuse: ") + std::strerror(errno),
            "modprobe fuse; in a container, give it /dev/fuse"};
  if (::geteuid() == 0) return {"fuse", true, "mounts as root", ""};
  const auto version = version_of("fusermount3");
  return {"fuse", !version.empty(),
          version.empty() ? "no fusermount3, which mounts for plain users" : version,
          version.empty() ? "install fuse3" : ""};
}

Finding find_passthrough() {
  utsname system{};
  (void)::uname(&system);
  int major = 0, minor = 0;
  const bool is_new =
      std::sscanf(system.release, "%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 9));
  const std::string kernel = std::string("kernel ") + system.release;
  if (!is_new) return {"fuse-passthrough", false, kernel + ", which needs to be 6.9 or later", ""};
  if (::geteuid() != 0) return {"fuse-passthrough", false, kernel + " has it, for root only", ""};
  return {"fuse-passthrough", true, kernel, ""};
}

Finding find_user_namespaces() {
  const auto most = base::parse_decimal(first_line("/proc/sys/user/max_user_namespaces"));
  const bool is_off = first_line("/proc/sys/kernel/unprivileged_userns_clone") == "0" && ::geteuid() != 0;
  if (!most || *most == 0 || is_off)
    return {"user-namespaces", false, "plain users may make none",
            "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone"};
  return {"user-namespaces", true, std::to_string(*most) + " at most", ""};
}

Finding find_reflink(const std::string& path) {
  Finding finding{"reflink", false, path + ": ", ""};
  const auto file = [&] {
    return base::UniqueFd(::open(path.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  };
  const auto from = file(), to = file();
  const base::Buffer block(65536, std::byte{1});
  if (from.get() < 0 || to.get() < 0) {
    finding.says += std::strerror(errno);
    return finding;
  }
  base::write_all(from.get(), block);
  finding.is_there = ::ioctl(to.get(), FICLONE, from.get()) == 0;
  finding.says += finding.is_there ? "files share their bytes until they are changed"
                                   : std::string(std::strerror(errno)) + "; files are copied";
  if (!finding.is_there) finding.help = "btrfs and xfs have them";
  return finding;
}

Finding find_iommu() {
  std::error_code none;
  const bool is_there = !std::filesystem::is_empty("/sys/kernel/iommu_groups", none) && !none;
  return {"iommu", is_there,
          is_there ? "devices can be given to guests" : "no groups: off, or not seen from here", ""};
}

Finding find_memory() {
  const auto pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGE_SIZE);
  return {"memory", true,
          base::human_size(static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(size)), ""};
}

Finding find_governor() {
  const auto governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  return {"cpu-governor", !governor.empty(), governor.empty() ? "not known here" : governor,
          governor == "powersave" ? "times vary with it; performance is steadier" : ""};
}

int run(const cli::Call& call, cli::Output& output) {
  const auto path = call.find("PATH").value_or(".");
  const auto acceleration = find_acceleration();
  const std::vector<Finding> findings{
      {"kvm", acceleration.is_usable, acceleration.mode + ": " + acceleration.reason, ""},
      find_iommu(),
      find_program("qemu-system-x86_64", "qemu-system-x86", "shrub boot"),
      find_program("qemu-img", "qemu-utils", "images other than raw and qcow2"),
      find_fuse(),
      find_passthrough(),
      find_user_namespaces(),
      find_reflink(path),
      {"cores", true, std::to_string(std::thread::hardware_concurrency()), ""},
      find_memory(),
      find_governor()};
  for (const auto& [name, is_there, says, help] : findings) {
    if (output.json()) {
      formats::json::Object record{{"name", name}, {"present", is_there}, {"says", says}};
      if (!help.empty()) record.emplace_back("help", help);
      output.record("finding", std::move(record));
    } else {
      output.line((is_there ? "yes " : "no  ") + name + ": " + says +
                  (help.empty() ? "" : " (" + help + ")"));
    }
  }
  return 0;
}

}  // namespace

cli::Command doctor_command() {
  return {
      "doctor",
      "Say what this machine can do, and what is missing for it",
      "Looks for what mounts, images and virtual machines make use of: KVM and how (on the host, nested, or "
      "emulation in its place, with the reason), IOMMU, QEMU, FUSE and pass-through of reads, user "
      "namespaces, "
      "reflinks at PATH, cores, memory, and the governor of the processor's clock.",
      {{"PATH", cli::Argument::Count::optional, "where reflinks are tried (default: here)",
        cli::Completion::directory}},
      {},
      {{"shrub doctor", "all of it"}},
      {},
      run};
}

}  // namespace shrub_cli
