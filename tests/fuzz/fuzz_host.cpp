// Input: kind of host (bucket, SFTP), then what it answers when it is asked what is in a directory.
#include "tests/fuzz/target.h"
#include "vat/internal/host.h"

namespace {

vat::internal::Host host_of(const char* url) {
  vat::PeerAddress address;
  address.url = url;
  address.region = "eu-1";
  address.may_be_local = true;
  address.known_hosts = "/known";
  return vat::internal::Host(address);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto bucket = host_of("s3://bucket/a/vat"), sftp = host_of("ssh://host/vat");
  auto answer = fuzz::input_of(data, size);
  const auto& host = fuzz::take_choice(answer) % 2 == 0 ? bucket : sftp;
  fuzz::survives([&] {
    for (const auto& name : host.parse_list("primary/pack", base::as_chars(answer)).names) {
      fuzz::require(!name.empty() && name != "." && name != "..", "a name is that of something below");
      fuzz::require(name.find('/') == name.npos && name.find('\0') == name.npos, "a name is one step");
    }
  });
  return 0;
}
