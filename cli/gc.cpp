#include "cli/gc.h"

#include <ctime>

#include "cli/peers.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace cli {

std::vector<Option> gc_options() {
  return {{"--grace", "DURATION", "how long what is condemned stays (default 14d)"},
          {"--all-shrubs", "",
           "no shrub that uses the vat is left out: for `vat gc --live`, and a vat that ssh:// leads to"},
          dry_run_option()};
}

vat::RepackOptions gc_options_of(const Call& call) {
  vat::RepackOptions options;
  options.threads = static_cast<unsigned>(call.number("--jobs", 0, 1, 256));
  options.now = std::time(nullptr);  // not the time that is put into results
  options.grace =
      static_cast<std::int64_t>(call.duration("--grace", static_cast<std::uint64_t>(options.grace)));
  options.dry_run = call.has("--dry-run");
  return options;
}

void check_needed(bool is_any) {
  if (!is_any)
    throw base::Error(base::Category::refused, "nothing is needed, so all of the vat would go",
                      "if that is wanted, remove its directory");
}

int gc_there(const std::string& url, const std::vector<std::string>& ids, const Call& call, Output& output) {
  std::string lines;
  for (const auto& id : ids) lines += id + "\n";
  return run_there(url, {"gc", "--live", "-", "--count", std::to_string(ids.size())}, gc_options(), call,
                   output, lines);
}

void print_gc(Output& output, const std::string& vat, const vat::RepackSummary& summary,
              const vat::RepackOptions& options) {
  if (output.json()) {
    formats::json::Object record{{"live-blobs", summary.live_blobs}, {"live", summary.live_size},
                                 {"packs", summary.packs},           {"size", summary.size},
                                 {"stored", summary.stored_size},    {"dead-packs", summary.dead_packs},
                                 {"dead", summary.dead_size},        {"waiting-packs", summary.waiting_packs},
                                 {"waiting", summary.waiting_size},  {"removed-packs", summary.removed_packs},
                                 {"removed", summary.removed_size}};
    add_path(record, "vat", vat);
    return output.record("gc", std::move(record));
  }
  const auto packs = [](std::uint64_t count, std::uint64_t size) {
    return base::counted(count, "pack") + ", " + base::human_size(size);
  };
  const std::string would = options.dry_run ? "would be " : "";
  for (const auto& name : summary.removed) output.detail(would + "removed: " + name);
  for (const auto& name : summary.condemned) output.detail(would + "condemned: " + name);
  output.message(vat + ": " + packs(summary.dead_packs, summary.dead_size) + ", " + would + "condemned; " +
                 packs(summary.packs, summary.size) + ", of which less than half is needed, " + would +
                 "rewritten; " + packs(summary.removed_packs, summary.removed_size) + ", " + would +
                 "removed; " + packs(summary.waiting_packs, summary.waiting_size) + " wait");
}

}  // namespace cli
