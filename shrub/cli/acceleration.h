// Whether this machine runs the code of a guest on its processor.
#pragma once

#include <string>

namespace shrub_cli {

struct Acceleration {
  bool is_usable = false;
  std::string mode;    ///< host, nested or emulation
  std::string reason;  ///< why that
};
[[nodiscard]] Acceleration find_acceleration();

/// What a file of the kernel's says, of which nobody knows the size before; empty if there is none.
[[nodiscard]] std::string read_kernel_file(const std::string& path);

}  // namespace shrub_cli
