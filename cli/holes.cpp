#include "cli/holes.h"

#include "cli/peers.h"

namespace cli {

Option holes_option() {
  return {"--allow-holes", "SIZE",
          "hash that much of holes, such as 200G, though it takes long (default: 64G in a file; in an "
          "archive 1G, or 100 "
          "times its size)"};
}

std::uint64_t allowed_holes(const Call& call, std::uint64_t otherwise) {
  const auto given = call.find("--allow-holes");
  return given ? parse_size("--allow-holes", *given) : otherwise;
}

}  // namespace cli
