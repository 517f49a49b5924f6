#include "shrub/cli/machine.h"

#include <algorithm>
#include <filesystem>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/yaml/yaml.h"

namespace shrub_cli {
namespace {

using base::Category;
using base::Error;
using formats::json::Object;
using formats::json::Value;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kMinMemory = 16 * kMiB, kMaxMemory = std::uint64_t{16} << 40;
constexpr std::uint64_t kMaxCpus = 512;
constexpr std::size_t kMaxDisks = 16;
constexpr std::size_t kMaxTag = 31;  ///< bytes, of virtio

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::usage, what);
}

const std::string& text_of(const std::string& key, const Value& value) {
  const auto* text = value.find_string();
  if (text == nullptr) refuse(key + ": not text");
  if (text->empty() || text->front() == '-')
    refuse(key + ": '" + *text + "' is empty, or would be an option");
  if (std::any_of(text->begin(), text->end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }))
    refuse(key + ": control characters");
  return *text;
}

std::uint64_t number_of(const std::string& key, const Value& value, std::uint64_t low, std::uint64_t high) {
  std::uint64_t number = 0;
  if (value.find_string() != nullptr)
    number = cli::parse_size(key, *value.find_string());
  else if (!value.find_unsigned(number))
    refuse(key + ": not a number");
  if (number < low || number > high)
    refuse(key + ": " + std::to_string(number) + " is not from " + std::to_string(low) + " to " +
           std::to_string(high));
  return number;
}

bool flag_of(const std::string& key, const Value& value) {
  if (value.find_bool() == nullptr) refuse(key + ": neither true nor false");
  return *value.find_bool();
}

class Reader {
 public:
  explicit Reader(std::string directory) : directory_(std::move(directory)) {}

  Machine read(const Value& document) {
    const auto* members = document.find_object();
    if (members == nullptr) refuse("no keys and values");
    for (const auto& [key, value] : *members) read_member(key, value);
    if (!machine_.initrd.empty() && machine_.kernel.empty()) refuse("initrd: without a kernel");
    if (!machine_.append.empty() && machine_.kernel.empty()) refuse("append: without a kernel");
    if (machine_.disks.empty() && machine_.kernel.empty()) refuse("neither disks nor a kernel");
    return std::move(machine_);
  }

 private:
  void read_member(const std::string& key, const Value& value) {
    if (key == "memory") {
      machine_.memory = number_of(key, value, kMinMemory, kMaxMemory);
      if (machine_.memory % kMiB != 0) refuse("memory: not whole MiB");
    } else if (key == "cpus") {
      machine_.cpus = number_of(key, value, 1, kMaxCpus);
    } else if (key == "disks") {
      each(key, value, [&](const Value& disk) { read_disk(disk); });
    } else if (key == "kernel") {
      machine_.kernel = path_of(key, value);
    } else if (key == "initrd") {
      machine_.initrd = path_of(key, value);
    } else if (key == "append") {
      machine_.append = text_of(key, value);
    } else if (key == "network") {
      machine_.has_network = flag_of(key, value);
    } else if (key == "wedges") {
      each(key, value, [&](const Value& wedge) { read_wedge(wedge); });
    } else if (key == "acceleration") {
      const auto& text = text_of(key, value);
      if (text == "kvm")
        machine_.acceleration = Machine::Acceleration::kvm;
      else if (text == "emulation")
        machine_.acceleration = Machine::Acceleration::emulation;
      else if (text != "auto")
        refuse("acceleration: '" + text + "' is not auto, kvm or emulation");
    } else {
      refuse("'" + key + "' is not known");
    }
  }

  template <typename Read>
  static void each(const std::string& key, const Value& value, const Read& read) {
    const auto* array = value.find_array();
    if (array == nullptr || array->size() > kMaxDisks) refuse(key + ": not a list of at most 16");
    for (const auto& item : *array) read(item);
  }

  void read_disk(const Value& value) {
    Machine::Disk disk;
    if (value.find_string() != nullptr) {
      disk.vref = path_of("disks", value);
    } else {
      if (value.find_object() == nullptr) refuse("disks: neither a vref nor keys and values");
      for (const auto& [key, member] : *value.find_object()) {
        if (key == "vref")
          disk.vref = path_of("disks: vref", member);
        else if (key == "read-only")
          disk.is_writable = !flag_of("disks: read-only", member);
        else
          refuse("disks: '" + key + "' is not known");
      }
    }
    if (disk.vref.empty()) refuse("disks: no vref");
    machine_.disks.push_back(std::move(disk));
  }

  void read_wedge(const Value& value) {
    Machine::Share share;
    if (value.find_object() == nullptr) refuse("wedges: no keys and values");
    for (const auto& [key, member] : *value.find_object()) {
      if (key == "path")
        share.path = path_of("wedges: path", member);
      else if (key == "tag")
        share.tag = text_of("wedges: tag", member);
      else
        refuse("wedges: '" + key + "' is not known");
    }
    const auto is_plain = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
             c == '_';
    };
    if (share.path.empty()) refuse("wedges: no path");
    if (share.tag.empty() || share.tag.size() > kMaxTag ||
        !std::all_of(share.tag.begin(), share.tag.end(), is_plain))
      refuse("wedges: a tag has 1 to 31 letters, digits, - and _");
    machine_.wedges.push_back(std::move(share));
  }

  std::string path_of(const std::string& key, const Value& value) const {
    return (std::filesystem::path(directory_) / text_of(key, value)).lexically_normal().string();
  }

  const std::string directory_;
  Machine machine_;
};

std::string doubled_commas(std::string text) {
  for (std::size_t at = 0; (at = text.find(',', at)) != std::string::npos; at += 2) text.insert(at, 1, ',');
  return text;
}

void add_disk(std::vector<std::string>& arguments, const MachinePlaces& places, std::size_t index) {
  const bool is_booted = places.kernel.empty();
  const auto number = std::to_string(index);
  auto node = "base" + number;
  const Object server{{"type", "unix"}, {"path", places.socket}};
  arguments.insert(arguments.end(),
                   {"-blockdev", formats::json::to_line(Object{{"driver", "nbd"},
                                                               {"node-name", node},
                                                               {"read-only", true},
                                                               {"server", server},
                                                               {"export", "disk" + number}})});
  if (const auto& overlay = places.overlays[index]; !overlay.empty()) {
    // Without a name for the disk below in the file: which it is is said here.
    const Object file{{"driver", "file"}, {"filename", overlay}};
    const auto below = std::exchange(node, "disk" + number);
    arguments.insert(arguments.end(), {"-blockdev", formats::json::to_line(Object{{"driver", "qcow2"},
                                                                                  {"node-name", node},
                                                                                  {"file", file},
                                                                                  {"discard", "unmap"},
                                                                                  {"backing", below}})});
  }
  arguments.insert(arguments.end(),
                   {"-device", "virtio-blk-pci,drive=" + node + (is_booted ? ",bootindex=" + number : "")});
}

}  // namespace

Machine machine_of_disk(const std::string& vref) {
  Machine machine;
  machine.disks.push_back({vref, true});
  return machine;
}

Machine parse_machine(const std::string& text, const std::string& directory) {
  return Reader(directory).read(formats::parse_yaml(text));
}

std::vector<std::string> qemu_arguments(const Machine& machine, const MachinePlaces& places) {
  std::vector<std::string> arguments{
      "qemu-system-x86_64",
      "-nodefaults",
      "-no-user-config",
      "-no-reboot",
      "-machine",
      "q35",
      "-accel",
      places.kvm ? "kvm" : "tcg,thread=multi",
      "-cpu",
      places.kvm ? "host" : "max",
      "-m",
      std::to_string(machine.memory / kMiB) + "M",
      "-smp",
      std::to_string(machine.cpus),
      "-display",
      "none",
      "-serial",
      "stdio",
      "-device",
      "virtio-rng-pci",
      "-sandbox",
      "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"};
  const auto add = [&](const std::string& option, const std::string& value) {
    arguments.push_back(option);
    arguments.push_back(value);
  };
  for (std::size_t i = 0; i < machine.disks.size(); ++i) add_disk(arguments, places, i);
  if (!places.kernel.empty()) add("-kernel", places.kernel);
  if (!places.initrd.empty()) add("-initrd", places.initrd);
  if (!machine.append.empty()) add("-append", machine.append);
  if (machine.has_network) {
    add("-netdev", "user,id=net0");
    add("-device", "virtio-net-pci,netdev=net0");
  } else {
    add("-nic", "none");
  }
  for (std::size_t i = 0; i < machine.wedges.size(); ++i) {
    const auto id = "wedge" + std::to_string(i);
    add("-fsdev", "local,id=" + id + ",path=" + doubled_commas(machine.wedges[i].path) +
                      ",security_model=none,readonly=on");
    add("-device", "virtio-9p-pci,fsdev=" + id + ",mount_tag=" + machine.wedges[i].tag);
  }
  return arguments;
}

}  // namespace shrub_cli
