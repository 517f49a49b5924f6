#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "formats/base/object_id.h"
#include "formats/base/process.h"
#include "shrub/git_state.h"
#include "shrub/internal/repositories.h"

namespace shrub::internal {
namespace {

using base::Category;
using base::Error;

constexpr const char* kEmptySha1 = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
constexpr const char* kEmptySha256 = "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813";
constexpr std::size_t kMaxTree = std::size_t{64} << 20;

/// Variables that would make git look at another repository than the one we name.
const std::vector<std::string> kHidden{"GIT_DIR",
                                       "GIT_WORK_TREE",
                                       "GIT_INDEX_FILE",
                                       "GIT_OBJECT_DIRECTORY",
                                       "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                                       "GIT_COMMON_DIR",
                                       "GIT_NAMESPACE",
                                       "GIT_SHALLOW_FILE",
                                       "GIT_REPLACE_REF_BASE"};

/// git cuts history where .git/info/grafts says so.
const std::vector<std::string> kSet{"GIT_GRAFT_FILE=/dev/null"};

class GitProgram final : public Repository {
 public:
  explicit GitProgram(std::string top) : Repository(std::move(top)) {
    base::Process git(command({"rev-parse", "--show-object-format"}), kHidden, kSet);
    const auto format = git.read_rest();
    if (git.finish() != 0)
      throw Error(Category::refused, "repository " + this->top() + ": git cannot read it",
                  "git -C " + this->top() + " status");
    id_size_ = format == "sha256\n" ? 32 : 20;
  }

  std::string resolve(const std::string& revision) override {
    base::Process git(
        command({"rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}"}), kHidden,
        kSet);
    std::string id;
    const bool found = git.read_until('\n', id);
    if (git.finish() != 0 || !found) throw Error(Category::not_found, "revision " + revision + ": not found");
    return id;
  }

  std::optional<std::vector<GitEntry>> list(const std::string& commit, const std::string& path) override {
    const auto tree = find(commit + (path == "." ? "^{tree}" : ":" + path), kMaxTree);
    if (!tree || tree->type != "tree") return std::nullopt;
    return parse_tree(*tree);
  }

  std::vector<GitEntry> list_tree(const std::string& tree) override {
    const auto found = find(tree, kMaxTree);
    if (!found || found->type != "tree") throw Error(Category::refused, "tree " + tree + ": is not there");
    return parse_tree(*found);
  }

  std::string read_blob(const std::string& blob, std::size_t limit) override {
    auto found = find(blob, limit);
    if (!found || found->type != "blob") throw Error(Category::refused, "blob " + blob + ": is not there");
    return std::move(found->content);
  }

  std::vector<GitRef> refs() override {
    std::vector<GitRef> all;
    std::vector<std::string> names;
    if (const auto storage = setting(places().common, {"extensions.refStorage"});
        !storage.empty() && storage != "files")
      throw Error(
          Category::refused,
          "repository " + top() + ": its refs are stored as " + storage + ", which this program cannot read",
          "git refs migrate --ref-format=files");
    for (const auto& line : lines({"for-each-ref", "--format=%(objectname) %(refname)"})) {
      std::string_view rest = line;
      const auto id = std::string(base::take_field(rest, ' '));
      const auto& name = names.emplace_back(rest);
      auto tip = find_tip(name, id);
      if (!tip) throw Error(Category::refused, name + ": leads to what is not in the repository");
      all.push_back(*std::move(tip));
    }
    for (const auto& other : find_other_refs(places().common, names, id_size())) {
      auto tip = find_tip(other.name, other.id);
      if (!tip) throw Error(Category::refused, other.name + ": leads to what is not in the repository");
      all.push_back(*std::move(tip));
    }
    return all;
  }

  std::optional<GitRef> find_tip(const std::string& name, const std::string& id) override {
    if (auto commit = find(id + "^{commit}", SIZE_MAX)) return GitRef{name, id, std::move(commit->id)};
    if (auto tree = find(id + "^{tree}", SIZE_MAX)) return GitRef{name, id, {}, std::move(tree->id)};
    if (find(id + "^{blob}", SIZE_MAX)) return GitRef{name, id};
    return std::nullopt;
  }

  GitPlaces places() override {
    GitPlaces places;
    places.common = directory("--git-common-dir");
    places.own = directory("--absolute-git-dir");
    places.top = top();
    for (const auto* file : {"/config", "/config.worktree"}) {
      const auto bare = setting(places.common, {"--bool", "core.bare"}, file);
      if (!bare.empty()) places.is_bare = bare == "true";
      const auto worktree = setting(places.common, {"core.worktree"}, file);
      if (!worktree.empty()) places.worktree = worktree;
    }
    return places;
  }

  std::size_t id_size() const override { return 2 * id_size_; }

  std::vector<GitEntry> index(const std::string& file) override {
    std::vector<GitEntry> entries;
    // The index of a working tree that may be absent: read as that of a repository without one.
    base::Process git({"git", "--no-optional-locks", "--no-replace-objects", "-c", "core.fsmonitor=false",
                       "-c", "core.bare=true", "--git-dir=" + places().common, "ls-files", "--stage", "-z"},
                      kHidden, {kSet.front(), "GIT_INDEX_FILE=" + file});
    const auto empty = id_size_ == 20 ? kEmptySha1 : kEmptySha256;
    for (std::string line; git.read_until('\0', line);) {
      std::string_view rest = line;
      const auto mode = base::take_field(rest, ' ');
      GitEntry entry;
      entry.id = base::take_field(rest, ' ');
      (void)base::take_field(rest, '\t');
      entry.name = rest;
      entry.type = mode.starts_with("100") ? GitEntry::Type::file : GitEntry::Type::other;
      if (entry.id != empty) entries.push_back(std::move(entry));  // what is only intended to be added
    }
    if (git.finish() != 0)
      throw Error(Category::refused, "repository " + top() + ": git cannot read " + file);
    return entries;
  }

  std::optional<std::string> read(const std::string& commit, const std::string& path,
                                  std::size_t limit) override {
    if (!is_file(commit, path)) return std::nullopt;
    auto blob = find(commit + ":" + path, limit);
    if (!blob || blob->type != "blob") return std::nullopt;
    return std::move(blob->content);
  }

  std::optional<std::string> find_id(const std::string& commit, const std::string& path) override {
    const auto object = find(commit + (path == "." ? "^{tree}" : ":" + path), SIZE_MAX);
    return object ? std::optional(object->id) : std::nullopt;
  }

  void walk(const std::vector<std::string>& commits,
            const std::function<bool(const CommitInfo&)>& visit) override {
    if (commits.empty()) return;
    base::Process git(command({"rev-list", "--date-order", "--no-commit-header",
                               "--format=%H%x00%P%x00%ct%x00%an <%ae>%x00%s", "--stdin"}),
                      kHidden, kSet);
    std::string names;
    for (const auto& commit : commits) names += commit + "\n";
    git.write(names);
    git.close_input();
    for (std::string line; git.read_until('\n', line);) {
      std::string_view rest = line;
      CommitInfo info;
      info.id = base::take_field(rest, '\0');
      for (std::string_view parents = base::take_field(rest, '\0'); !parents.empty();)
        info.parents.emplace_back(base::take_field(parents, ' '));
      info.time = base::parse_signed(base::take_field(rest, '\0')).value_or(0);
      info.author = base::take_field(rest, '\0');
      info.subject = rest;
      if (!visit(info)) return;
    }
    if (git.finish() != 0)
      throw Error(Category::refused, "repository " + top() + ": git cannot read its history");
  }

  bool is_shallow() override {
    const auto answer = lines({"rev-parse", "--is-shallow-repository"});
    if (answer.size() != 1)
      throw Error(Category::refused, "repository " + top() + ": git does not say whether it is shallow");
    return answer.front() == "true";
  }

 private:
  struct Object {
    std::string id, type, content;
  };

  std::vector<GitEntry> parse_tree(const Object& tree) const {
    std::vector<GitEntry> entries;
    for (std::string_view rest = tree.content; !rest.empty();) {
      const auto mode = base::take_field(rest, ' ');
      GitEntry entry;
      entry.name = base::take_field(rest, '\0');
      if (rest.size() < id_size_) throw Error(Category::refused, "tree " + tree.id + " is cut off");
      entry.type = mode == "40000"           ? GitEntry::Type::directory
                   : mode.starts_with("100") ? GitEntry::Type::file
                                             : GitEntry::Type::other;
      entry.id = base::to_hex(base::as_bytes(rest.substr(0, id_size_)));
      rest.remove_prefix(id_size_);
      entries.push_back(std::move(entry));
    }
    return entries;
  }

  [[nodiscard]] std::vector<std::string> lines(std::vector<std::string> arguments) const {
    base::Process git(command(std::move(arguments)), kHidden, kSet);
    std::vector<std::string> all;
    for (std::string line; git.read_until('\n', line);) all.push_back(std::move(line));
    if (git.finish() != 0)
      throw Error(Category::refused, "repository " + top() + ": git cannot read its refs");
    return all;
  }

  /// One of the directories that git names, whatever bytes its path has.
  [[nodiscard]] std::string directory(const std::string& which) const {
    base::Process git(command({"rev-parse", "--path-format=absolute", which}), kHidden, kSet);
    auto path = git.read_rest();
    if (git.finish() != 0 || !path.ends_with('\n'))
      throw Error(Category::refused, "repository " + top() + ": git does not say where it is");
    path.pop_back();
    return path;
  }

  /// Of the repository as such, whatever a working tree says; empty if it is not set.
  [[nodiscard]] std::string setting(const std::string& common, std::vector<std::string> what,
                                    const std::string& file = "/config") const {
    what.insert(what.begin(), {"git", "--git-dir=" + common, "config", "--file=" + common + file, "--get"});
    base::Process git(what, kHidden, kSet);
    std::string value;
    (void)git.read_until('\n', value);
    const auto code = git.finish();
    if (code != 0 && code != 1)  // 1: it is not set
      throw Error(Category::refused, "repository " + top() + ": git cannot read its configuration");
    return value;
  }

  [[nodiscard]] std::vector<std::string> command(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"git", "--no-optional-locks", "--no-replace-objects", "-c",
                                         "core.fsmonitor=false", "-C", top()});
    return arguments;
  }

  /// The object and, if it is not larger than `limit`, its content.
  std::optional<Object> find(const std::string& name, std::size_t limit) {
    if (batch_ == nullptr)
      batch_ = std::make_unique<base::Process>(command({"cat-file", "--batch", "-z"}), kHidden, kSet);
    batch_->write(name + '\0');
    // The name comes back where there is no such object, line feeds and all.
    std::string line;
    if (!batch_->read_until('\n', line))
      throw Error(Category::refused, "repository " + top() + ": git gave up");
    for (auto feed = name.find('\n'); feed != std::string::npos && line == name.substr(0, feed);
         feed = name.find('\n', feed + 1)) {
      std::string more;
      if (!batch_->read_until('\n', more)) break;
      line += "\n" + more;
    }
    if (line == name + " missing") return std::nullopt;
    std::string_view rest = line;
    Object object;
    object.id = base::take_field(rest, ' ');
    object.type = base::take_field(rest, ' ');
    const auto size = base::parse_decimal(rest);
    if (object.id.size() != 2 * id_size_ || !size)
      throw Error(Category::refused, "repository " + top() + ": git says '" + line.substr(0, 100) + "'");
    if (*size > std::uint64_t{1} << 32) throw Error(Category::refused, name + ": too large");
    object.content = batch_->read_exactly(static_cast<std::size_t>(*size));
    (void)batch_->read_exactly(1);
    if (limit != SIZE_MAX && object.content.size() > limit)
      throw Error(Category::refused,
                  name.substr(name.find(':') + 1) + ": larger than " + std::to_string(limit) + " bytes");
    return object;
  }

  /// Not a symlink, whose blob looks like a file's.
  bool is_file(const std::string& commit, const std::string& path) {
    const auto slash = path.rfind('/');
    const auto siblings = list(commit, slash == std::string::npos ? "." : path.substr(0, slash));
    if (!siblings) return false;
    const auto name = path.substr(slash == std::string::npos ? 0 : slash + 1);
    for (const auto& entry : *siblings)
      if (entry.name == name) return entry.type == GitEntry::Type::file;
    return false;
  }

  std::size_t id_size_ = 20;
  std::unique_ptr<base::Process> batch_;
};

}  // namespace

std::unique_ptr<Repository> open_with_git_program(const std::string& top) {
  return std::make_unique<GitProgram>(top);
}

}  // namespace shrub::internal
