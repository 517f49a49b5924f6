// Input: a byte that says whether the disk may be written, then all that a client sends.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "tests/fuzz/target.h"
#include "wedge/nbd_server.h"

namespace {

constexpr std::uint64_t kSize = 100'000;

wedge::NbdDisk disk(bool writable) {
  wedge::NbdDisk disk;
  disk.name = "d";
  disk.size = kSize;
  disk.read = [](std::uint64_t at, base::MutableBytes to, const auto&) {
    fuzz::require(at <= kSize && to.size() <= kSize - at, "reads lie inside the disk");
    std::fill(to.begin(), to.end(), std::byte{7});
  };
  disk.run_at = [](std::uint64_t at, const auto&) {
    fuzz::require(at < kSize, "runs begin inside the disk");
    return wedge::NbdDisk::Run{std::min(kSize, at / 1000 * 1000 + 1000), at / 1000 % 2 == 0};
  };
  if (writable)
    disk.write = [](std::uint64_t at, base::Bytes bytes, const auto&) {
      fuzz::require(at <= kSize && bytes.size() <= kSize - at, "writes lie inside the disk");
    };
  return disk;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  const auto path = "/tmp/shrub-fuzz-nbd-" + std::to_string(::getpid());
  const wedge::NbdServer server(wedge::listen_at(path), {disk(fuzz::take_choice(input) % 2 != 0)}, {});
  const base::UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const bool connected =
      ::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  fuzz::require(connected, "the server is there");
  (void)::send(client.get(), input.data(), input.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  (void)::shutdown(client.get(), SHUT_WR);
  std::size_t answered = 0;
  char buffer[65536];
  for (ssize_t count; (count = ::recv(client.get(), buffer, sizeof buffer, 0)) > 0;)
    answered += static_cast<std::size_t>(count);
  // Each request of 28 bytes may ask for all of the disk.
  fuzz::require(answered <= (input.size() / 28 + 1) * (kSize + 65536), "answers have a limit");
  return 0;
}
