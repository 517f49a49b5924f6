#include "cli/environment.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/cli/verbs.h"
#include "shrub/repository.h"

namespace shrub_cli {
namespace {

using shrub::CommitInfo;

void print(cli::Output& output, const CommitInfo& info, const std::optional<formats::Vref>& vref) {
  if (output.json()) {
    formats::json::Object record{
        {"commit", info.id}, {"time", cli::format_time(info.time)}, {"removed", !vref}};
    cli::add_path(record, "author", info.author);
    if (!info.subject.empty()) cli::add_path(record, "subject", info.subject);
    if (vref) {
      record.emplace_back("kind", formats::to_string(vref->type));
      record.emplace_back("size", vref->size);
      for (const auto& [key, id] :
           {std::pair{"manifest", vref->manifest}, {"blob", vref->blob}, {"recipe", vref->recipe}})
        if (id) record.emplace_back(key, id->hex());
    }
    return output.record("commit", std::move(record));
  }
  std::string what = "removed";
  if (vref) what = std::string(formats::to_string(vref->type)) + " of " + base::human_size(vref->size);
  output.line(info.id.substr(0, 12) + " " + cli::format_time(info.time) + " " + what + ": " +
              cli::printable(info.subject));
}

int run(const cli::Call& call, cli::Output& output) {
  const auto named = find_named(call.get("VREF"), call, "HEAD");
  const auto repository = shrub::Repository::find(named.shrub.root());
  const auto& root = named.shrub.root();
  const auto& top = repository->top();
  const auto below = root == top ? "" : root.substr(top.size() + 1) + "/";
  const auto path = below + named.entry + shrub::kVrefSuffix;
  const auto limit = call.number("--max-count", UINT64_MAX, 1, UINT64_MAX);
  std::uint64_t count = 0;
  repository->log(named.shrub.commit(), path, [&](const CommitInfo& info) {
    const auto text = repository->read(info.id, path, formats::kMaxVref);
    std::optional<formats::Vref> vref;
    if (text)
      vref = base::named(info.id.substr(0, 12) + ": " + path, [&] { return formats::parse_vref(*text); });
    print(output, info, vref);
    return ++count < limit;
  });
  if (count == 0) throw base::Error(base::Category::not_found, call.get("VREF") + ": no commit has it");
  if (repository->is_shallow()) output.warning("the repository is shallow: older commits are not there");
  return 0;
}

}  // namespace

cli::Command log_command() {
  return {"log",
          "List the commits that changed a vref",
          "Newest first: commit, time, what the vref pinned then, subject. Nothing is checked out.",
          {{"VREF", cli::Argument::Count::one, "the vref; @REV may follow", cli::Completion::file}},
          {{"--max-count", "N", "at most so many"}, revision_option()},
          {{"shrub log deps.shrub/gcc.vref", "the history of one entry"}},
          {5, 8, 10},
          run};
}

}  // namespace shrub_cli
