#include "vat/far_verb.h"

#include "formats/base/error.h"
#include "formats/base/process.h"
#include "vat/internal/host.h"

namespace vat {

constexpr std::size_t kMaxErrors = std::size_t{1} << 20;

using base::Category;
using base::Error;

int run_there(const PeerAddress& vat, const FarVerb& verb, const base::ByteSink& out, std::string& errors) {
  const internal::Host host(vat);
  const auto command = host.ssh_command(verb.words);
  if (command.empty())
    throw Error(Category::usage, host.name() + ": this works on local vats, and on those that ssh leads to");
  base::Process ssh(command);
  bool is_heard = true;
  try {
    ssh.write(verb.input);
  } catch (const Error& error) {
    if (error.category() != Category::local) throw;
    is_heard = false;  // it ended early, and says why
  }
  ssh.close_input();
  base::Buffer buffer(std::size_t{64} << 10);
  while (const auto size = ssh.read_some(buffer)) out(base::Bytes(buffer).first(size));
  const int code = ssh.finish();
  errors = ssh.errors(kMaxErrors);
  constexpr int kNoProgram = 127, kNoConnection = 255;
  auto line = errors.substr(0, errors.find_last_not_of('\n') + 1);  // what comes before may be a banner
  line.erase(0, line.rfind('\n') + 1);
  if (code == kNoProgram)
    throw Error(Category::usage, host.name() + ": there is no vat to run: " + line, "install it there");
  const auto says = [&](const char* text) { return errors.find(text) != std::string::npos; };
  if (code == kNoConnection && (says("Permission denied") || says("Host key verification failed") ||
                                says("Too many authentication failures")))
    throw Error(Category::authentication, host.name() + ": ssh: " + line);
  if (code == kNoConnection || code > 128 || (code == 0 && !is_heard))
    throw Error(Category::network, host.name() + ": ssh: " + (line.empty() ? "ended early" : line));
  return code;
}

}  // namespace vat
