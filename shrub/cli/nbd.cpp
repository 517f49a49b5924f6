#include <filesystem>

#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/url.h"
#include "shrub/cli/lazy_disks.h"
#include "shrub/cli/signals.h"
#include "wedge/overlay.h"

namespace shrub_cli {
namespace {

int run(const cli::Call& call, cli::Output& output) {
  if (call.has("--socket") == call.has("--port"))
    throw base::Error(base::Category::usage, "--socket or --port, one of them");
  const Signals signals;
  LazyDisks disks(call, output);
  auto disk = disks.open(call.get("VREF")).export_as("");
  disks.prefetch();
  std::unique_ptr<wedge::Overlay> overlay;
  if (call.has("--writable")) {
    const auto directory = std::filesystem::temp_directory_path().string();
    overlay = std::make_unique<wedge::Overlay>(std::move(disk), directory);
    disk = overlay->disk();
  }
  auto listening =
      call.has("--socket")
          ? wedge::listen_at(call.get("--socket"))
          : wedge::listen_on_loopback(static_cast<std::uint16_t>(call.number("--port", 0, 0, 65535)));
  // A long path is of no use to clients; the short one is, where it was given.
  const auto path = listening.path.size() < 108 ? listening.path : call.get("--socket");
  const auto uri = call.has("--socket") ? "nbd+unix:///?socket=" + base::percent_encoded(path)
                                        : "nbd://127.0.0.1:" + std::to_string(listening.port);
  const wedge::NbdServer server(std::move(listening), {std::move(disk)},
                                [&](const std::string& what) { output.warning(what); });
  if (output.json())
    output.record("nbd", {{"uri", uri}});
  else
    output.line(uri);
  output.finish();
  const int signal = signals.wait();
  disks.report();
  return 128 + signal;
}

}  // namespace

cli::Command nbd_command() {
  auto options = cli::fetch_options();
  for (auto& option : trace_options()) options.push_back(std::move(option));
  options.insert(options.begin(),
                 {{"--socket", "PATH", "serve at a unix socket, for this user only", cli::Completion::file},
                  {"--port", "N", "serve on 127.0.0.1, for everybody on this machine; 0: any port"},
                  {"--writable", "", "what is written is kept until the end, and then thrown away"},
                  revision_option()});
  return {"nbd",
          "Serve an image as a network block device",
          "Serves the image or file of VREF by NBD until it is ended (SIGINT, SIGTERM), and prints where. "
          "Chunks are "
          "fetched as they are read, and proven before they are shown; what cannot be had is an I/O error "
          "for that read. Clients are told of holes.",
          {{"VREF", cli::Argument::Count::one, "an image or a file, in a shrub", cli::Completion::file}},
          options,
          {{"shrub nbd --socket /run/user/1000/debian images.shrub/debian.vref",
            "then, for example: qemu-img info 'nbd+unix:///?socket=/run/user/1000/debian'"},
           {"shrub nbd --writable --port 10809 images.shrub/debian.vref", "a throw-away disk"}},
          {4, 5, 6, 7, 8, 10, 11, 12},
          run};
}

}  // namespace shrub_cli
