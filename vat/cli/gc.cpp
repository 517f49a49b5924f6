#include <fcntl.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include "cli/gc.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "vat/cli/verbs.h"
#include "vat/live.h"
#include "vat/repack.h"
#include "vat/served.h"

namespace vat_cli {
namespace {

using base::Category;
using base::Error;

/// Ids of roots or blobs, one a line. A list that ends within a line was cut off.
class LiveList {
 public:
  explicit LiveList(const cli::Call& call)
      : name_(call.get("--live")),
        fd_(name_ == "-" ? base::UniqueFd(::dup(STDIN_FILENO)) : base::open_at(AT_FDCWD, name_, O_RDONLY)) {
    if (call.has("--count")) wanted_ = call.number("--count", 0, 1, UINT64_MAX);
  }

  void for_each(const std::function<void(const std::string&)>& visit) {
    base::Buffer buffer(std::size_t{1} << 20);
    std::string line;
    while (const auto size = base::read_some(fd_.get(), buffer))
      for (const char c : base::as_chars(base::Bytes(buffer).first(size))) {
        if (c == '\n' || c == '\0') {
          ++count_;
          visit(line);
          line.clear();
        } else if (line.push_back(c); line.size() > 200) {
          throw Error(Category::refused, name_ + ": no list of ids");
        }
      }
    if (!line.empty()) throw Error(Category::refused, name_ + ": is cut off in its last line");
    base::named(name_, [&] { cli::check_needed(count_ > 0); });
    if (wanted_ && count_ != *wanted_)
      throw Error(Category::refused,
                  name_ + ": has " + std::to_string(count_) + " ids, not " + std::to_string(*wanted_));
  }

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] std::string place() const { return name_ + ", line " + std::to_string(count_); }

 private:
  std::string name_;
  base::UniqueFd fd_;
  std::optional<std::uint64_t> wanted_;
  std::uint64_t count_ = 0;
};

int run(const cli::Call& call, cli::Output& output) {
  LiveList list(call);
  if (const auto name = named_vat(call); vat::is_remote(name)) {
    std::vector<std::string> ids;
    list.for_each([&](const std::string& id) { ids.push_back(id); });
    return cli::gc_there(name, ids, call, output);
  }
  const auto opened = open_vat(call, output);
  if (const auto served = vat::list_served(*opened); !served.empty() && !call.has("--all-shrubs"))
    throw Error(Category::refused,
                opened->path() + ": is used by " + std::to_string(served.size()) +
                    (served.size() == 1 ? " shrub: " : " shrubs, as ") + formats::escape(served.front().path),
                "shrub gc looks at all of them; or say --all-shrubs, if the list has what they need");
  auto options = cli::gc_options_of(call);
  options.progress = [&](std::uint64_t done) { output.progress("rewritten", done, 0); };
  vat::LiveSet live;
  list.for_each([&](const std::string& line) {
    const auto id = base::ObjectId::parse(opened->object_format(), line);
    if (!id)
      throw Error(Category::refused,
                  list.place() + ": no id of " + std::string(base::to_string(opened->object_format())));
    if (!live.contains(*id)) vat::add_live(*opened, *id, live);
    output.progress("live", list.count(), 0);
  });
  const auto summary =
      vat::collect_garbage(*opened, options, [&](const base::ObjectId& id) { return live.contains(id); });
  cli::print_gc(output, opened->path(), summary, options);
  return 0;
}

}  // namespace

cli::Command gc_command() {
  auto options = cli::gc_options();
  options.insert(options.begin(),
                 {{"--live", "FILE", "ids of roots or blobs that are needed, one a line; - for stdin",
                   cli::Completion::file, false, true},
                  {"--count", "N", "refuse a list that has not just as many"}});
  return {
      "gc",
      "Take away what is not needed",
      "Reads the ids of roots, or of blobs, that are needed, finds all that they need, and condemns packs of "
      "which nothing is; of packs of which more than half is not, what is needed is written anew first. "
      "Packs that were condemned longer than the grace period ago by an earlier run, and are still not "
      "needed, are deleted. Adds and readers go on meanwhile: what is added again is stored again, and what "
      "they began to rely on stays. Hand-filled files are left alone.\n\n"
      "A vat that knows which shrubs of its machine use it refuses (8), as none of these may be left out; "
      "--all-shrubs says that none is.\n\n"
      "A root that cannot be read ends it (exit 8), and nothing is deleted. DURATION is a number of seconds, "
      "or one with s, m, h or d.\n\n"
      "For a vat that ssh:// leads to, the `vat` of that host does it.",
      {},
      options,
      {{"shrub reachable a.shrub b.shrub | vat --vat deps.vat gc --live - --all-shrubs",
        "for all shrubs that use the vat"},
       {"vat --vat deps.vat gc --live needed -n", "say what would be done"},
       {"vat --vat ssh://host/srv/deps.vat gc --live needed", "there"}},
      {4, 6, 8, 10, 11, 12},
      run};
}

}  // namespace vat_cli
