#include "shrub/cli/acceleration.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "formats/base/unique_fd.h"

namespace shrub_cli {
namespace {

bool exists(const char* path) {
  struct stat info {};
  return ::stat(path, &info) == 0;
}

bool runs_in_a_guest() {
  return read_kernel_file("/proc/cpuinfo").find(" hypervisor") != std::string::npos;
}

}  // namespace

std::string read_kernel_file(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

Acceleration find_acceleration() {
  const base::UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (kvm.get() < 0) return {false, "emulation", std::string("/dev/kvm: ") + std::strerror(errno)};
  // It runs without help of the processor, and only kernels made for it.
  if (exists("/sys/module/kvm_pvm"))
    return {false, "emulation", "KVM here is kvm_pvm, which runs no stock kernels"};
  if (!exists("/sys/module/kvm_intel") && !exists("/sys/module/kvm_amd"))
    return {false, "emulation", "/dev/kvm is there, but neither kvm_intel nor kvm_amd"};
  return runs_in_a_guest() ? Acceleration{true, "nested", "KVM in a virtual machine"}
                           : Acceleration{true, "host", "KVM"};
}

}  // namespace shrub_cli
