// One suite for every kind of repository and both ways of reading them.
#include "shrub/repository.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <functional>

#include "formats/base/error.h"
#include "shrub/internal/repositories.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

using base::Category;
using shrub::CommitInfo;
using shrub::GitEntry;
using shrub::Repository;

namespace {

bool run(const std::string& command) {
  return std::system(("( " + command + " ) > /dev/null 2>&1").c_str()) == 0;
}

std::string output_of(const std::string& command) {
  FILE* const pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  for (int c; (c = std::fgetc(pipe)) != EOF;) text.push_back(static_cast<char>(c));
  REQUIRE(::pclose(pipe) == 0);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

/// Four commits: a file comes, another in a directory, a branch changes the first, a merge brings both
/// together.
bool make_history(const std::string& dir, const std::string& init) {
  return run("export HOME=" + dir +
             " GIT_AUTHOR_NAME='A U Thor' GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=c "
             "GIT_COMMITTER_EMAIL=c@example.org; unset GIT_DIR; set -e; git init -q -b main " +
             init + " " + dir + "; cd " + dir +
             "; at() { export GIT_AUTHOR_DATE=\"$1 +0000\" GIT_COMMITTER_DATE=\"$1 +0000\"; };"
             "at 1700000001; echo one > a.vref; git add .; git commit -qm 'first of all';"
             "at 1700000002; mkdir -p sub/deep; echo two > sub/b.vref; ln -s a.vref link; printf nl > "
             "\"$(printf 'new\\nline')\"; "
             "printf 'f' > 'sub/deep/a b'; git add .; git commit -qm 'second\n\nwith a body';"
             "git branch side; at 1700000003; echo more >> sub/b.vref; git commit -qam third;"
             "git checkout -q side; at 1700000004; echo changed > a.vref; git commit -qam 'on the side';"
             "git checkout -q main; at 1700000005; git merge -q --no-edit side; git tag -a -m 'a tag' v1");
}

std::vector<std::string> subjects(Repository& repository, const std::string& path) {
  std::vector<std::string> found;
  repository.log(repository.resolve("HEAD"), path, [&](const CommitInfo& info) {
    found.push_back(info.subject);
    return true;
  });
  return found;
}

using Open = std::unique_ptr<Repository> (*)(const std::string&);

void check_reading(Repository& repository, const std::string& git_dir) {
  const auto head = repository.resolve("HEAD");
  CHECK(head == output_of("git --git-dir=" + git_dir + " rev-parse HEAD"));
  CHECK(repository.resolve("v1") == head);
  CHECK(repository.resolve("main") == head);
  CHECK(repository.resolve(head) == head);
  CHECK(repository.resolve(head.substr(0, 12)) == head);
  for (const auto* wrong : {"no-such-branch", "-x", "--all", "", "HEAD:a.vref", "HEAD~99", "main..side"}) {
    INFO(wrong);
    CHECK(tests::category_of([&] { (void)repository.resolve(wrong); }) == Category::not_found);
  }

  CHECK(repository.read(head, "a.vref", 100) == "changed\n");
  CHECK(repository.read(head, "sub/b.vref", 100) == "two\nmore\n");
  CHECK(repository.read(head, "sub/deep/a b", 100) == "f");
  CHECK(repository.read(head, "new\nline", 100) == "nl");
  for (const auto* absent : {"b.vref", "sub", "sub/c", "a.vref/x", "link", "no\nsuch\nfile", "x/y"}) {
    INFO(absent);
    CHECK_FALSE(repository.read(head, absent, 100));
  }
  CHECK(tests::category_of([&] { (void)repository.read(head, "sub/b.vref", 8); }) == Category::refused);
  CHECK(repository.read(head, "sub/b.vref", 9));

  const auto top = repository.list(head, ".").value();
  std::vector<std::string> names;
  for (const auto& entry : top) names.push_back(entry.name);
  CHECK(names == std::vector<std::string>{"a.vref", "link", "new\nline", "sub"});
  CHECK(top[0].type == GitEntry::Type::file);
  CHECK(top[1].type == GitEntry::Type::other);
  CHECK(top[3].type == GitEntry::Type::directory);
  CHECK(top[0].id == output_of("git --git-dir=" + git_dir + " rev-parse HEAD:a.vref"));
  CHECK(repository.find_id(head, "a.vref") == top[0].id);
  CHECK(repository.find_id(head, "sub") == top[3].id);
  CHECK(repository.find_id(head, ".") == output_of("git --git-dir=" + git_dir + " rev-parse 'HEAD^{tree}'"));
  CHECK_FALSE(repository.find_id(head, "b.vref"));
  CHECK(repository.list(head, "sub").value().size() == 2);
  CHECK_FALSE(repository.list(head, "a.vref"));
  CHECK_FALSE(repository.list(head, "nowhere"));
}

void check_refs(Repository& repository, const std::string& git) {
  const auto refs = repository.find_kept(false).tips;
  const auto commit_of = [&](const std::string& name) {
    const auto found =
        std::find_if(refs.begin(), refs.end(), [&](const auto& ref) { return ref.name == name; });
    return found == refs.end() ? std::string() : found->commit;
  };
  const auto head = repository.resolve("HEAD");
  CHECK(commit_of("refs/heads/main") == head);
  CHECK(commit_of("refs/tags/v1") == head);  // of the commit, not of the tag
  CHECK(commit_of("refs/heads/side") == repository.resolve("side"));
  const auto has = [](const auto& all, const std::string& commit) {
    return std::any_of(all.begin(), all.end(), [&](const auto& ref) { return ref.commit == commit; });
  };
  CHECK(has(refs, head));
  // What only a reflog knows.
  if (const auto lost = output_of(git + " log -g --format=%H HEAD 2>/dev/null || true"); !lost.empty())
    CHECK(has(repository.find_kept(true).tips, lost.substr(lost.rfind('\n') + 1)));

  const auto tree = repository.find_id(head, ".").value();
  const auto entries = repository.list_tree(tree);
  REQUIRE(entries.size() == 4);
  CHECK(entries[0].name == "a.vref");
  CHECK(repository.read_blob(entries[0].id, 100) == "changed\n");
  CHECK(repository.list_tree(entries[3].id).size() == 2);
  CHECK(tests::category_of([&] { (void)repository.read_blob(entries[0].id, 3); }) == Category::refused);
  const std::string absent(tree.size(), 'a');
  CHECK(tests::category_of([&] { (void)repository.read_blob(absent, 100); }) == Category::refused);
  CHECK(tests::category_of([&] { (void)repository.list_tree(absent); }) == Category::refused);
  CHECK(tests::category_of([&] { (void)repository.read_blob(tree, 100); }) == Category::refused);
  CHECK(tests::category_of([&] { (void)repository.list_tree(entries[0].id); }) == Category::refused);
  std::size_t seen = 0;
  repository.walk({head, repository.resolve("side"), head}, [&](const CommitInfo&) { return ++seen > 0; });
  CHECK(seen == 5);  // each once
  repository.walk({}, [&](const CommitInfo&) { return ++seen > 0; });
  CHECK(seen == 5);
  if (const auto index = repository.index(repository.places().own + "/index");
      !index.empty()) {  // none in a bare one
    CHECK(index.size() == 5);
    CHECK(index[0].name == "a.vref");
    CHECK(index[0].id == entries[0].id);
    CHECK(index[1].type == GitEntry::Type::other);
  }
}

void check_history(Repository& repository) {
  CHECK(subjects(repository, "a.vref") == std::vector<std::string>{"on the side", "first of all"});
  CHECK(subjects(repository, "sub/b.vref") == std::vector<std::string>{"third", "second"});
  CHECK(subjects(repository, "nowhere").empty());
  const auto old = repository.resolve("HEAD~2");
  CHECK(repository.read(old, "a.vref", 100) == "one\n");
  std::vector<CommitInfo> commits;
  repository.walk({repository.resolve("HEAD")}, [&](const CommitInfo& info) {
    commits.push_back(info);
    return true;
  });
  REQUIRE(commits.size() == 5);
  CHECK(commits[0].parents.size() == 2);
  CHECK(commits[0].time == 1700000005);
  CHECK(commits[4].parents.empty());
  CHECK(commits[4].subject == "first of all");
  CHECK(commits[4].author == "A U Thor <a@example.org>");
  std::size_t seen = 0;
  repository.walk({repository.resolve("HEAD")}, [&](const CommitInfo&) { return ++seen < 2; });
  CHECK(seen == 2);
  CHECK_FALSE(repository.is_shallow());
}

}  // namespace

TEST_CASE("every kind of repository is read alike", "[shrub][repository]") {
  if (!run("git --version")) {
    WARN("SKIPPED: no git");
    return;
  }
  const tests::TempDir dir;
  const auto origin = dir / "origin";
  const std::string kind =
      GENERATE(as<std::string>(), "ordinary", "bare", "linked worktree", "sha256", "worktreeConfig");
  INFO(kind);
  REQUIRE(make_history(origin, kind == "sha256" ? "--object-format=sha256" : ""));
  auto top = origin, git_dir = origin + "/.git";
  if (kind == "bare") {
    REQUIRE(run("git clone -q --bare " + origin + " " + (dir / "bare.git")));
    top = git_dir = dir / "bare.git";
  } else if (kind == "linked worktree") {
    REQUIRE(run("git -C " + origin + " worktree add -q --detach " + (dir / "linked") + " HEAD"));
    top = dir / "linked";
  } else if (kind == "worktreeConfig") {
    REQUIRE(
        run("cd " + origin +
            " && git config core.repositoryformatversion 1 && git config extensions.worktreeConfig true"));
  }
  const auto with_libgit2 = shrub::internal::open_with_libgit2(top);
  CHECK((with_libgit2 == nullptr) == (kind == "sha256" || kind == "worktreeConfig"));
  if (with_libgit2 != nullptr) {
    check_reading(*with_libgit2, git_dir);
    check_history(*with_libgit2);
    check_refs(*with_libgit2, "git --git-dir=" + git_dir);
  }
  const auto with_program = shrub::internal::open_with_git_program(top);
  check_reading(*with_program, git_dir);
  check_history(*with_program);
  check_refs(*with_program, "git --git-dir=" + git_dir);
  for (const auto* below : {"", "/sub/deep", "/sub/no/such", "/a.vref"}) {
    const auto found = Repository::find(top + below);
    CHECK(found->top() == top);
    check_reading(*found, git_dir);
  }
}

TEST_CASE("a shallow clone says so, and its history ends where it was cut", "[shrub][repository]") {
  if (!run("git --version")) {
    WARN("SKIPPED: no git");
    return;
  }
  const tests::TempDir dir;
  REQUIRE(make_history(dir / "origin", ""));
  const auto top = dir / "shallow";
  REQUIRE(run("git clone -q --depth 2 file://" + (dir / "origin") + " " + top));
  CHECK(shrub::internal::open_with_libgit2(top) == nullptr);
  const auto repository = Repository::find(top);
  CHECK(repository->is_shallow());
  check_reading(*repository, top + "/.git");
  CHECK(subjects(*repository, "sub/b.vref") == std::vector<std::string>{"on the side", "third"});
}

TEST_CASE("what is no repository, or a broken one", "[shrub][repository]") {
  const tests::TempDir dir;
  CHECK(tests::category_of([&] { (void)Repository::find(dir.path()); }) == Category::no_store);
  CHECK(tests::category_of([&] { (void)Repository::find(dir / "no/such/place"); }) == Category::no_store);
  if (!run("mkdir -p " + (dir / "broken") + " && git init -q " + (dir / "empty") + " && echo nonsense > " +
           (dir / "broken/.git"))) {
    WARN("SKIPPED: no git");
    return;
  }
  CHECK(tests::category_of([&] { (void)Repository::find(dir / "broken"); }) == Category::refused);
  CHECK(tests::category_of([&] { (void)Repository::find(dir / "empty")->resolve("HEAD"); }) ==
        Category::not_found);
  CHECK(tests::category_of([&] {
          (void)shrub::internal::open_with_git_program(dir / "empty")->resolve("HEAD");
        }) == Category::not_found);
  REQUIRE(make_history(dir / "damaged", ""));
  REQUIRE(run("cd " + (dir / "damaged") + " && git gc -q; rm -rf .git/objects/pack"));
  for (const Open open : {shrub::internal::open_with_libgit2, shrub::internal::open_with_git_program}) {
    const auto category = tests::category_of([&] {
      const auto repository = open(dir / "damaged");
      (void)repository->list(repository->resolve("main"), ".");
    });
    CHECK((category == Category::not_found || category == Category::refused));
  }
}

TEST_CASE("a repository of somebody else is not read unless that is allowed", "[shrub][repository]") {
  if (::geteuid() != 0 || !run("git --version")) {
    WARN("SKIPPED: only root can give files away");
    return;
  }
  const tests::TempDir dir;
  REQUIRE(make_history(dir / "r", ""));
  REQUIRE(run("chown -R 12345 " + (dir / "r")));
  const auto error = tests::error_of([&] { (void)Repository::find(dir / "r"); });
  CHECK(error.category() == Category::refused);
  CHECK_FALSE(error.hint().empty());
}

TEST_CASE("a git program that says what it should not is not believed", "[shrub][repository]") {
  if (!run("git --version")) {
    WARN("SKIPPED: no git");
    return;
  }
  const tests::TempDir dir;
  const auto message = [&](const std::string& answer) {
    tests::write_file(
        dir / "git",
        base::as_bytes("#!/bin/sh\ncase \"$*\" in *rev-parse*) echo sha1 ;; *) head -c 41 > /dev/null; " +
                       answer + " ;; esac\n"));
    REQUIRE(::chmod((dir / "git").c_str(), 0755) == 0);
    return tests::message_of(
        [&] { (void)shrub::internal::open_with_git_program(dir.path())->list_tree(std::string(40, 'a')); });
  };
  const std::string path = std::getenv("PATH");
  REQUIRE(::setenv("PATH", (dir.path() + ":" + path).c_str(), 1) == 0);
  const auto tree = "printf '%s tree %s\\n' " + std::string(40, 'a') + " ";
  CHECK_THAT(message("exit 1"), Catch::Contains("git gave up"));
  CHECK_THAT(message("echo what do you mean"), Catch::Contains("git says 'what do you mean'"));
  CHECK_THAT(message(tree + "many"), Catch::Contains("git says"));
  CHECK_THAT(message(tree + "4294967297"), Catch::Contains("too large"));
  REQUIRE(::setenv("PATH", path.c_str(), 1) == 0);
}

TEST_CASE("a repository that lacks something of its history, refs or index is refused",
          "[shrub][repository]") {
  if (!run("git --version")) {
    WARN("SKIPPED: no git");
    return;
  }
  const tests::TempDir dir;
  const auto top = dir / "r";
  REQUIRE(make_history(top, ""));
  const auto lose = [&](const std::string& revision) {
    const auto id = output_of("git -C " + top + " rev-parse '" + revision + "'");
    REQUIRE(run("rm -f " + top + "/.git/objects/" + id.substr(0, 2) + "/" + id.substr(2)));
    return id;
  };
  const auto category = [&](const std::function<void(Repository&)>& read) {
    // What libgit2 says of it may be another word for the same.
    const auto with_libgit2 = tests::category_of([&] { read(*shrub::internal::open_with_libgit2(top)); });
    CHECK((with_libgit2 == Category::refused || with_libgit2 == Category::not_found));
    return tests::category_of([&] { read(*shrub::internal::open_with_git_program(top)); });
  };
  const auto walk = [&](Repository& repository) {
    repository.walk({repository.resolve("main")}, [](const CommitInfo&) { return true; });
  };
  const auto head = output_of("git -C " + top + " rev-parse main");
  SECTION("a commit") {
    (void)lose("main~2");
    CHECK(category(walk) == Category::refused);
  }
  SECTION("what a tag leads to") {
    REQUIRE(run("cd " + top + " && git tag lost $(echo lost | git hash-object -w --stdin)"));
    (void)lose("lost");
    CHECK(category([](Repository& repository) { (void)repository.find_kept(false); }) == Category::refused);
  }
  SECTION("what an annotated tag leads to") {
    REQUIRE(run("cd " + top +
                " && export GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@example.org && "
                "git tag -a -m lost lost $(echo lost | git hash-object -w --stdin)"));
    (void)lose("lost^{}");
    CHECK(category([](Repository& repository) { (void)repository.find_kept(false); }) == Category::refused);
  }
  SECTION("the index") {
    REQUIRE(run("echo nonsense > " + top + "/.git/index"));
    CHECK(category([](Repository& repository) {
            (void)repository.index(repository.places().own + "/index");
          }) == Category::refused);
  }
  SECTION("the end of a tree") {
    const auto tree = output_of("cd " + top +
                                " && git cat-file tree HEAD: | head -c 20 | "
                                "git hash-object -t tree --literally -w --stdin");
    CHECK(category([&](Repository& repository) { (void)repository.list_tree(tree); }) == Category::refused);
  }
}
