#include <cmath>

#include "cli/environment.h"
#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

std::string speed(double latency, double rate) {
  std::string text;
  if (latency > 0) text += std::to_string(std::lround(latency * 1000)) + " ms";
  if (rate > 0)
    text += (text.empty() ? "" : ", ") + base::human_size(static_cast<std::uint64_t>(rate)) + "/s";
  return text.empty() ? "speed unknown" : text;
}

void add_speed(formats::json::Object& record, double latency, double rate) {
  if (latency > 0) record.emplace_back("latency-ms", static_cast<std::uint64_t>(std::lround(latency * 1000)));
  if (rate > 0) record.emplace_back("rate", static_cast<std::uint64_t>(rate));
}

int list(cli::Output& output) {
  for (const auto& peer : vat::known_peers(cli::cache_directory())) {
    if (output.json()) {
      formats::json::Object record;
      cli::add_path(record, "url", peer.name);
      add_speed(record, peer.latency, peer.rate);
      output.record("peer", std::move(record));
    } else {
      output.line(peer.name + " " + speed(peer.latency, peer.rate));
    }
  }
  return 0;
}

int test(const cli::Call& call, cli::Output& output) {
  int worst = 0;
  for (const auto& url : call.all("URL")) {
    std::string fault;
    vat::PeerTest result;
    try {
      result = vat::test_peer(cli::address_of(url), cli::peer_options(call, output));
    } catch (const Error& error) {
      if (error.category() == Category::usage || error.category() == Category::internal) throw;
      worst = std::max(worst, error.exit_code());
      fault = error.what();
    }
    if (output.json()) {
      formats::json::Object record{{"good", fault.empty()}};
      cli::add_path(record, "url", url);
      if (fault.empty()) {
        record.emplace_back("object-format", base::to_string(result.object_format));
        record.emplace_back("packs", result.packs);
        record.emplace_back("ranges", result.ranges);
        add_speed(record, result.latency, result.rate);
      } else {
        cli::add_path(record, "fault", fault);
      }
      output.record("peer", std::move(record));
    } else if (fault.empty()) {
      output.line(url + " " + std::string(base::to_string(result.object_format)) + ", " +
                  base::counted(result.packs, "pack") + ", " + speed(result.latency, result.rate) +
                  (result.ranges ? "" : ", sends whole files only (ranges are ignored)"));
    } else {
      output.line(fault);
    }
  }
  return worst;
}

int run(const cli::Call& call, cli::Output& output) {
  const auto action = call.get("ACTION");
  if (action == "ls" && !call.has("URL")) return list(output);
  if (action == "test" && call.has("URL")) return test(call, output);
  throw Error(Category::usage, "peer: 'ls', or 'test' and URLs",
              "vat peer test https://example.org/deps.vat");
}

}  // namespace

cli::Command peer_command() {
  return {"peer",
          "Say what is known of vats on other hosts",
          "`ls` lists those that were asked before, with their latency and rate, as moving averages. `test` "
          "asks each URL now: "
          "whether there is a vat, how many packs it has, whether it sends parts of files, how quick it is.",
          {{"ACTION", cli::Argument::Count::one, "ls or test"},
           {"URL", cli::Argument::Count::any, "vats: http, https, s3 or ssh"}},
          {},
          {{"vat peer test https://example.org/deps.vat", "before relying on it"}},
          {6, 7, 8, 10, 12},
          run};
}

}  // namespace vat_cli
