// A virtual machine as a small YAML file describes it, and how QEMU is told of it. docs/formats/machine.md
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shrub_cli {

struct Machine {
  struct Disk {
    std::string vref;
    bool is_writable = true;
  };
  struct Share {
    std::string path, tag;
  };
  std::uint64_t memory = std::uint64_t{1} << 30;  ///< bytes
  std::uint64_t cpus = 2;
  std::vector<Disk> disks;
  std::string kernel, initrd;  ///< a file, a vref of one, or a vref of a tree, ':' and a path in it; or empty
  std::string append;
  bool has_network = false;  ///< by way of QEMU's own network, which sees what this process sees
  std::vector<Share> wedges;
  enum class Acceleration : std::uint8_t { automatic, kvm, emulation };
  Acceleration acceleration = Acceleration::automatic;
};

/// A machine with that disk only.
[[nodiscard]] Machine machine_of_disk(const std::string& vref);
/// `directory`: what relative paths are relative to. Throws usage for keys that are not known, and for values
/// that could be taken for something else by QEMU.
[[nodiscard]] Machine parse_machine(const std::string& text, const std::string& directory);

/// Where the parts of a machine are at hand.
struct MachinePlaces {
  std::string socket;                 ///< NBD, with an export disk0, disk1 … for each disk
  std::vector<std::string> overlays;  ///< qcow2, one for each disk; empty: read-only
  std::string kernel, initrd;
  bool kvm = false;
};
/// The program and its arguments.
[[nodiscard]] std::vector<std::string> qemu_arguments(const Machine& machine, const MachinePlaces& places);

}  // namespace shrub_cli
