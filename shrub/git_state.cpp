#include "shrub/git_state.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <string_view>
#include <thread>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"

namespace shrub {
namespace {

namespace fs = std::filesystem;
using base::Category;
using base::Error;

constexpr std::size_t kMaxFile = std::size_t{64} << 20;
/// How often, and after which time, is looked again at what git may be making or removing.
constexpr int kAttempts = 10;
constexpr std::chrono::milliseconds kBetweenAttempts{20};
/// Refs that each working tree has for itself.
constexpr const char* kOwnRefs[] = {"refs/bisect", "refs/worktree", "refs/rewritten"};
/// What is kept here git needs to go on; other such files may name what it has pruned.
constexpr const char* kNeeded[] = {"HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD"};

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw Error(Category::refused, path + ": " + why);
}

/// Whatever cannot be read may name what is needed.
template <typename Read>
auto readable(const std::string& path, Read&& read) {
  try {
    return read();
  } catch (const Error& error) {
    fail(path, error.what());
  }
}

std::optional<std::string> find_text(const std::string& path) {
  return readable(path, [&] { return base::find_file(AT_FDCWD, path, kMaxFile); });
}

bool exists(const std::string& path) {
  return readable(path, [&] { return base::find_stat(AT_FDCWD, path, true).has_value(); });
}

bool is_directory(const std::string& path) {
  return readable(path, [&] {
    const auto info = base::find_stat(AT_FDCWD, path, true);
    return info && S_ISDIR(info->st_mode);
  });
}

std::vector<std::string> list(const std::string& path) {
  if (!is_directory(path)) return {};
  return readable(path, [&]() -> std::vector<std::string> {
    // It may go while git is at work.
    const auto opened = base::find_open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
    return opened ? base::list_directory(opened->get()) : std::vector<std::string>();
  });
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

std::string absolute(const std::string& from, const std::string& path) {
  return fs::path(from).append(path).lexically_normal().string();
}

/// Calls `visit` with each regular file below `path`.
void for_each_file(const std::string& path, const std::function<void(const std::string&)>& visit) {
  for (const auto& name : list(path)) {
    const auto full = path + "/" + name;
    if (is_directory(full))
      for_each_file(full, visit);
    else
      visit(full);
  }
}

bool is_git_directory(const std::string& path) {
  // A linked working tree has HEAD and a link to the rest.
  return exists(path + "/HEAD") &&
         (exists(path + "/commondir") || (exists(path + "/objects/.") && exists(path + "/refs")));
}

bool is_id(std::string_view word, std::size_t hex_size) {
  return word.size() == hex_size && word.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool is_none(std::string_view id) {
  return id.find_first_not_of('0') == std::string_view::npos;
}

/// Words of the text that are ids.
std::set<std::string> ids_in(std::string_view text, std::size_t hex_size) {
  std::set<std::string> ids;
  while (!text.empty()) {
    const auto end = std::min(text.find_first_of(" \t\r\n"), text.size());
    if (const auto word = text.substr(0, end); is_id(word, hex_size) && !is_none(word)) ids.emplace(word);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return ids;
}

/// A file that is a ref, or a list of them: each line begins with an id. `ref: …` leads to another one.
void read_ref(const std::string& path, std::size_t hex_size, bool may_be_gone,
              std::vector<KeptObject>& kept) {
  const auto text = find_text(path);
  if (!text) return;
  if (text->starts_with("ref: ")) return;
  if (trimmed(*text).empty()) {
    if (may_be_gone) return;  // FETCH_HEAD after a fetch of nothing
    fail(path, "is empty");
  }
  for (std::string_view rest = *text; !rest.empty();) {
    auto line = base::take_field(rest, '\n');
    const auto word = line.substr(0, line.find_first_of(" \t\r"));
    if (!is_id(word, hex_size)) fail(path, "names no object");
    if (!is_none(word)) kept.push_back({path, std::string(word), may_be_gone});
  }
}

/// Objects that the lines of a list of things to do name, such as `pick 1a2b3c4 subject`.
std::set<std::string> ids_to_do(std::string_view text, std::size_t hex_size) {
  constexpr std::size_t kShortest = 4;
  constexpr std::string_view kWithoutId[] = {"exec", "x",          "label", "l",     "reset",
                                             "t",    "update-ref", "u",     "break", "b"};
  std::set<std::string> ids;
  while (!text.empty()) {
    auto line = base::take_field(text, '\n');
    const auto command = base::take_field(line, ' ');
    if (command.starts_with('#') ||
        std::find(std::begin(kWithoutId), std::end(kWithoutId), command) != std::end(kWithoutId))
      continue;
    auto word = base::take_field(line, ' ');
    if (word.starts_with('-')) word = base::take_field(line, ' ');  // fixup -C ID, merge -c ID
    if (word.size() >= kShortest && word.size() <= hex_size && is_id(word, word.size())) ids.emplace(word);
  }
  return ids;
}

/// A linked working tree, by its directory below `worktrees`; nullopt if it goes meanwhile.
std::optional<GitDirectory> read_linked(const std::string& path) {
  GitDirectory linked;
  linked.path = path;
  std::optional<std::string> link;
  // git makes the files of such a directory, and removes them, one after the other.
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (!is_directory(path)) return std::nullopt;
    link = find_text(path + "/gitdir");
    if (link && !trimmed(*link).empty() && exists(path + "/HEAD")) break;
    std::this_thread::sleep_for(kBetweenAttempts);
  }
  if (!is_directory(path)) return std::nullopt;
  if (!link || trimmed(*link).empty()) fail(path + "/gitdir", "does not say where the working tree is");
  const auto dot_git = absolute(path, trimmed(*link));
  linked.worktree = fs::path(dot_git).parent_path().string();
  // An empty directory is where a disk is mounted at other times.
  linked.is_there = is_directory(linked.worktree) && exists(dot_git);
  linked.is_locked = exists(path + "/locked");
  return linked;
}

bool is_own_ref(const std::string& name) {
  return std::any_of(std::begin(kOwnRefs), std::end(kOwnRefs),
                     [&](const char* own) { return name.starts_with(std::string(own) + "/"); });
}

}  // namespace

std::string GitDirectory::name() const {
  if (is_main) return "the main working tree" + (worktree.empty() ? "" : " " + worktree);
  return "working tree " + (worktree.empty() ? path : worktree);
}

std::vector<GitDirectory> find_git_directories(const GitPlaces& places) {
  std::vector<GitDirectory> all;
  GitDirectory main;
  main.path = places.common;
  main.is_main = true;
  if (!places.worktree.empty())
    main.worktree = absolute(places.common, places.worktree);
  else if (places.own == places.common && places.top != places.common)
    main.worktree = places.is_bare ? std::string() : places.top;
  else if (fs::path(places.common).filename() == ".git")
    main.worktree = fs::path(places.common).parent_path().string();
  else
    main.is_known = places.is_bare;
  main.is_there = !main.worktree.empty() && is_directory(main.worktree);
  if (places.is_bare) main.worktree.clear();
  all.push_back(main);
  for (const auto& name : list(places.common + "/worktrees")) {
    if (auto linked = read_linked(places.common + "/worktrees/" + name)) all.push_back(*std::move(linked));
  }
  return all;
}

std::string find_common_directory(const std::string& path) {
  for (fs::path at = path;; at = at.parent_path()) {
    auto git = (at / ".git").string();
    const auto info = base::find_stat(AT_FDCWD, git, true);
    if (info && S_ISREG(info->st_mode)) {  // of a linked working tree, or of --separate-git-dir
      const auto link = trimmed(find_text(git).value_or(std::string()));
      constexpr std::string_view kLink = "gitdir: ";
      if (link.starts_with(kLink)) git = absolute(at.string(), link.substr(kLink.size()));
    }
    if (!info && is_git_directory(at.string())) git = at.string();
    if (is_git_directory(git)) {
      const auto common = trimmed(find_text(git + "/commondir").value_or(std::string()));
      std::error_code failure;  // what cannot be looked at keeps its name
      const auto full = common.empty() ? git : absolute(git, common);
      const auto canonical = fs::canonical(full, failure);
      return failure ? full : canonical.string();
    }
    if (at == at.root_path() || at.empty()) return {};
  }
}

std::vector<KeptObject> find_kept(const GitDirectory& directory, std::size_t hex_size) {
  std::vector<KeptObject> kept;
  if (!exists(directory.path + "/HEAD")) {
    if (!directory.is_main && !is_directory(directory.path)) return kept;  // removed meanwhile
    fail(directory.path + "/HEAD", "is not there");
  }
  for (const auto& name : list(directory.path)) {
    const auto path = directory.path + "/" + name;
    const bool is_word = name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == std::string::npos;
    if (name == "rebase-merge" || name == "rebase-apply" || name == "sequencer") {
      for_each_file(path, [&](const std::string& file) {
        const auto text = find_text(file).value_or(std::string());
        auto ids = ids_in(text, hex_size);
        ids.merge(ids_to_do(text, hex_size));
        for (const auto& id : ids) kept.push_back({file, id, true});
      });
    } else if (!is_word || is_directory(path) || name == "AUTO_MERGE") {
      continue;  // AUTO_MERGE is a tree with conflict markers in it; the index has what is of it
    } else if (name.ends_with("HEAD")) {
      const bool is_needed = std::find(std::begin(kNeeded), std::end(kNeeded), name) != std::end(kNeeded);
      read_ref(path, hex_size, !is_needed, kept);
    } else {  // BISECT_START, MERGE_AUTOSTASH, …
      for (const auto& id : ids_in(find_text(path).value_or(std::string()), hex_size))
        kept.push_back({path, id, true});
    }
  }
  for (const auto* own : kOwnRefs)
    for_each_file(directory.path + "/" + own, [&](const std::string& file) {
      if (!file.ends_with(".lock")) read_ref(file, hex_size, false, kept);
    });
  return kept;
}

std::vector<KeptObject> find_logged(const GitDirectory& directory, std::size_t hex_size) {
  std::vector<KeptObject> logged;
  std::set<std::string> seen;
  for_each_file(directory.path + "/logs", [&](const std::string& file) {
    if (file.ends_with(".lock")) return;
    const auto text = find_text(file).value_or(std::string());
    for (std::string_view rest = text; !rest.empty();) {
      auto line = base::take_field(rest, '\n');
      if (line.empty()) continue;
      for (int side = 0; side < 2; ++side) {
        const auto id = base::take_field(line, ' ');
        if (!is_id(id, hex_size)) fail(file, "is no reflog");
        if (!is_none(id) && seen.emplace(id).second) logged.push_back({file, std::string(id), true});
      }
    }
  });
  return logged;
}

std::vector<KeptObject> find_stashes(const GitDirectory& main, std::size_t hex_size) {
  std::vector<KeptObject> stashes;
  const auto path = main.path + "/logs/refs/stash";
  const auto text = find_text(path).value_or(std::string());
  for (std::string_view rest = text; !rest.empty();) {
    auto line = base::take_field(rest, '\n');
    if (line.empty()) continue;
    (void)base::take_field(line, ' ');
    const auto id = base::take_field(line, ' ');
    if (!is_id(id, hex_size)) fail(path, "is no reflog");
    if (!is_none(id)) stashes.push_back({path, std::string(id), false});
  }
  return stashes;
}

std::vector<KeptObject> find_other_refs(const std::string& common, const std::vector<std::string>& names,
                                        std::size_t hex_size) {
  std::vector<KeptObject> others;
  const std::set<std::string> known(names.begin(), names.end());
  const auto add = [&](const std::string& name, std::string_view id) {
    if (is_own_ref(name) || known.contains(name)) return;
    if (!is_id(id, hex_size) || is_none(id)) fail(name, "cannot be read");
    others.push_back({name, std::string(id), false});
  };
  for_each_file(common + "/refs", [&](const std::string& file) {
    if (file.ends_with(".lock")) return;
    const auto text = find_text(file);
    if (!text) return;  // it was deleted meanwhile
    // A symbolic one may lead to nothing yet; if it leads to a ref, that has a file of its own.
    if (!text->starts_with("ref: ")) add(file.substr(common.size() + 1), trimmed(*text));
  });
  const auto packed = find_text(common + "/packed-refs").value_or(std::string());
  for (std::string_view rest = packed; !rest.empty();) {
    auto line = base::take_field(rest, '\n');
    if (line.empty() || line.starts_with('#') || line.starts_with('^')) continue;
    const auto id = base::take_field(line, ' ');
    if (line.empty()) fail(common + "/packed-refs", "has a line that is no ref");
    if (base::find_stat(AT_FDCWD, common + "/" + std::string(line))) continue;  // that file is what counts
    add(std::string(line), id);
  }
  return others;
}

}  // namespace shrub
