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

}  // namespace shrub_cli
