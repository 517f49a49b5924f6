#include <fcntl.h>
#include <git2.h>

#include <mutex>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "shrub/git_state.h"
#include "shrub/internal/repositories.h"

namespace shrub::internal {
namespace {

using base::Category;
using base::Error;

std::string message_of_libgit2() {
  const git_error* error = git_error_last();
  return error != nullptr && error->message != nullptr ? error->message : "unknown error";
}

/// Throws unless `code` is one of success.
void check(int code, const std::string& what) {
  if (code >= 0) return;
  const auto text = what + ": " + message_of_libgit2();
  if (code == GIT_EOWNER)
    throw Error(Category::refused, text, "git config --global --add safe.directory DIR, if you trust it");
  throw Error(code == GIT_ENOTFOUND || code == GIT_EINVALIDSPEC || code == GIT_EAMBIGUOUS
                  ? Category::not_found
                  : Category::refused,
              text);
}

template <typename T, auto Release, typename Make>
base::CPtr<T, Release> make(const std::string& what, Make&& call) {
  T* raw = nullptr;
  check(call(&raw), what);
  return base::CPtr<T, Release>(raw);
}

std::string hex(const git_oid& id) {
  char text[GIT_OID_HEXSZ + 1];
  git_oid_tostr(text, sizeof text, &id);
  return text;
}

GitEntry::Type type_of(const git_tree_entry& entry) {
  switch (git_tree_entry_filemode(&entry)) {
    case GIT_FILEMODE_TREE:
      return GitEntry::Type::directory;
    case GIT_FILEMODE_BLOB:
    case GIT_FILEMODE_BLOB_EXECUTABLE:
      return GitEntry::Type::file;
    default:
      return GitEntry::Type::other;
  }
}

/// What a repository has to have: refused, not not_found, if it has not.
template <typename Read>
auto required(const std::string& what, Read&& read) {
  try {
    return read();
  } catch (const Error& error) {
    if (error.category() != Category::not_found) throw;
    throw Error(Category::refused, what + ": is not there");
  }
}

class Libgit2Repository final : public Repository {
 public:
  Libgit2Repository(std::string top, git_repository* repository)
      : Repository(std::move(top)), repository_(repository) {}

  std::string resolve(const std::string& revision) override {
    const auto what = "revision " + revision;
    const auto object = make<git_object, git_object_free>(what, [&](git_object** out) {
      return git_revparse_single(out, repository_.get(), revision.c_str());
    });
    const auto commit = make<git_object, git_object_free>(
        what, [&](git_object** out) { return git_object_peel(out, object.get(), GIT_OBJECT_COMMIT); });
    return hex(*git_object_id(commit.get()));
  }

  std::optional<std::vector<GitEntry>> list(const std::string& commit, const std::string& path) override {
    const auto tree = find_tree(commit, path);
    return tree != nullptr ? std::optional(entries_of(tree.get())) : std::nullopt;
  }

  std::vector<GitEntry> list_tree(const std::string& tree) override {
    const auto id = id_of(tree);
    return required("tree " + tree, [&] {
      return entries_of(make<git_tree, git_tree_free>("tree " + tree, [&](git_tree** out) {
                          return git_tree_lookup(out, repository_.get(), &id);
                        }).get());
    });
  }

  std::string read_blob(const std::string& blob, std::size_t limit) override {
    const auto id = id_of(blob);
    return required("blob " + blob, [&] {
      return content_of(
          make<git_blob, git_blob_free>(
              "blob " + blob, [&](git_blob** out) { return git_blob_lookup(out, repository_.get(), &id); })
              .get(),
          "blob " + blob, limit);
    });
  }

  std::vector<GitRef> refs() override {
    std::vector<std::string> names;
    const auto list = make<git_reference_iterator, git_reference_iterator_free>(
        "refs",
        [&](git_reference_iterator** out) { return git_reference_iterator_new(out, repository_.get()); });
    for (const char* name = nullptr; true;) {
      const int code = git_reference_next_name(&name, list.get());
      if (code == GIT_ITEROVER) break;
      check(code, "refs");
      names.emplace_back(name);
    }
    std::vector<GitRef> all;
    const auto add = [&](const std::string& name, const std::string& id) {
      auto tip = find_tip(name, id);
      if (!tip) throw Error(Category::refused, name + ": leads to what is not in the repository");
      all.push_back(*std::move(tip));
    };
    for (const auto& other : find_other_refs(places().common, names, id_size())) add(other.name, other.id);
    for (const auto& name : names) {
      git_oid id;
      const int code = git_reference_name_to_id(&id, repository_.get(), name.c_str());
      if (code == GIT_ENOTFOUND) continue;  // a symbolic ref to nothing
      check(code, name);
      add(name, hex(id));
    }
    return all;
  }

  std::optional<GitRef> find_tip(const std::string& name, const std::string& text) override {
    git_oid id;
    check(git_oid_fromstrn(&id, text.data(), text.size()), "id " + text);
    git_object* raw = nullptr;
    const int code = git_object_lookup_prefix(&raw, repository_.get(), &id, text.size(), GIT_OBJECT_ANY);
    if (code == GIT_ENOTFOUND) return std::nullopt;
    if (code == GIT_EAMBIGUOUS)
      throw Error(Category::refused, name + ": " + text + " may be several objects");
    check(code, name);
    const base::CPtr<git_object, git_object_free> object(raw);
    GitRef tip{name, text};
    for (const auto type : {GIT_OBJECT_COMMIT, GIT_OBJECT_TREE, GIT_OBJECT_BLOB}) {
      git_object* peeled_raw = nullptr;
      if (git_object_peel(&peeled_raw, object.get(), type) != 0) continue;
      const base::CPtr<git_object, git_object_free> peeled(peeled_raw);
      if (type == GIT_OBJECT_COMMIT) tip.commit = hex(*git_object_id(peeled.get()));
      if (type == GIT_OBJECT_TREE) tip.tree = hex(*git_object_id(peeled.get()));
      return tip;
    }
    return std::nullopt;
  }

  GitPlaces places() override {
    GitPlaces places;
    const auto without_slash = [](const char* path) {
      std::string text = path;
      while (text.size() > 1 && text.ends_with('/')) text.pop_back();
      return text;
    };
    places.common = without_slash(git_repository_commondir(repository_.get()));
    places.own = without_slash(git_repository_path(repository_.get()));
    places.top = top();
    for (const auto* file : {"/config", "/config.worktree"}) {
      if (!base::find_stat(AT_FDCWD, places.common + file, true)) continue;
      const auto config = make<git_config, git_config_free>("configuration", [&](git_config** out) {
        return git_config_open_ondisk(out, (places.common + file).c_str());
      });
      int bare = 0;
      if (git_config_get_bool(&bare, config.get(), "core.bare") == 0) places.is_bare = bare != 0;
      git_buf value{};
      if (git_config_get_string_buf(&value, config.get(), "core.worktree") == 0) places.worktree = value.ptr;
      git_buf_dispose(&value);
    }
    return places;
  }

  std::size_t id_size() const override { return GIT_OID_HEXSZ; }

  std::vector<GitEntry> index(const std::string& file) override {
    std::vector<GitEntry> entries;
    git_index* raw = nullptr;
    // A split or sparse index, or one without a checksum, is for git alone.
    if (git_index_open(&raw, file.c_str()) != 0) return open_with_git_program(top())->index(file);
    const base::CPtr<git_index, git_index_free> index(raw);
    for (std::size_t i = 0; i < git_index_entrycount(index.get()); ++i) {
      const auto* entry = git_index_get_byindex(index.get(), i);
      if ((entry->flags_extended & GIT_INDEX_ENTRY_INTENT_TO_ADD) != 0) continue;
      const bool is_file = entry->mode == GIT_FILEMODE_BLOB || entry->mode == GIT_FILEMODE_BLOB_EXECUTABLE;
      entries.push_back(
          {entry->path, is_file ? GitEntry::Type::file : GitEntry::Type::other, hex(entry->id)});
    }
    return entries;
  }

  std::optional<std::string> read(const std::string& commit, const std::string& path,
                                  std::size_t limit) override {
    const auto entry = find_entry(commit, path);
    if (entry == nullptr || type_of(*entry) != GitEntry::Type::file) return std::nullopt;
    const auto blob = make<git_blob, git_blob_free>(path, [&](git_blob** out) {
      return git_blob_lookup(out, repository_.get(), git_tree_entry_id(entry.get()));
    });
    return content_of(blob.get(), path, limit);
  }

  std::optional<std::string> find_id(const std::string& commit, const std::string& path) override {
    if (path == ".") return hex(*git_tree_id(tree_of(commit).get()));
    const auto entry = find_entry(commit, path);
    return entry == nullptr ? std::nullopt : std::optional(hex(*git_tree_entry_id(entry.get())));
  }

  void walk(const std::vector<std::string>& commits,
            const std::function<bool(const CommitInfo&)>& visit) override {
    const auto walker = make<git_revwalk, git_revwalk_free>(
        "history", [&](git_revwalk** out) { return git_revwalk_new(out, repository_.get()); });
    check(git_revwalk_sorting(walker.get(), GIT_SORT_TOPOLOGICAL | GIT_SORT_TIME), "history");
    for (const auto& commit : commits) {
      const auto start = id_of(commit);
      check(git_revwalk_push(walker.get(), &start), "history");
    }
    for (git_oid id; true;) {
      const int code = git_revwalk_next(&id, walker.get());
      if (code == GIT_ITEROVER) return;
      check(code, "history");
      const auto found = find_commit(id);
      CommitInfo info;
      info.id = hex(id);
      for (unsigned i = 0; i < git_commit_parentcount(found.get()); ++i) {
        info.parents.push_back(hex(*git_commit_parent_id(found.get(), i)));
      }
      info.time = git_commit_time(found.get());
      const git_signature* author = git_commit_author(found.get());
      if (author != nullptr) info.author = std::string(author->name) + " <" + author->email + ">";
      const char* summary = git_commit_summary(found.get());
      if (summary != nullptr) info.subject = summary;
      if (!visit(info)) return;
    }
  }

  bool is_shallow() override { return false; }

 private:
  using Tree = base::CPtr<git_tree, git_tree_free>;
  using Entry = base::CPtr<git_tree_entry, git_tree_entry_free>;

  static std::vector<GitEntry> entries_of(const git_tree* tree) {
    std::vector<GitEntry> entries;
    for (std::size_t i = 0; i < git_tree_entrycount(tree); ++i) {
      const git_tree_entry* entry = git_tree_entry_byindex(tree, i);
      entries.push_back({git_tree_entry_name(entry), type_of(*entry), hex(*git_tree_entry_id(entry))});
    }
    return entries;
  }
  static std::string content_of(const git_blob* blob, const std::string& name, std::size_t limit) {
    const auto size = static_cast<std::uint64_t>(git_blob_rawsize(blob));
    if (size > limit)
      throw Error(Category::refused, name + ": larger than " + std::to_string(limit) + " bytes");
    return std::string(static_cast<const char*>(git_blob_rawcontent(blob)), static_cast<std::size_t>(size));
  }
  static git_oid id_of(const std::string& text) {
    git_oid id;
    check(git_oid_fromstr(&id, text.c_str()), "id " + text);
    return id;
  }
  [[nodiscard]] base::CPtr<git_commit, git_commit_free> find_commit(const git_oid& id) const {
    return make<git_commit, git_commit_free>("commit " + hex(id), [&](git_commit** out) {
      return git_commit_lookup(out, repository_.get(), &id);
    });
  }
  [[nodiscard]] Tree tree_of(const std::string& commit) const {
    const auto found = find_commit(id_of(commit));
    return make<git_tree, git_tree_free>("commit " + commit,
                                         [&](git_tree** out) { return git_commit_tree(out, found.get()); });
  }
  [[nodiscard]] Entry find_entry(const std::string& commit, const std::string& path) const {
    const auto tree = tree_of(commit);
    git_tree_entry* raw = nullptr;
    const int code = git_tree_entry_bypath(&raw, tree.get(), path.c_str());
    if (code != GIT_ENOTFOUND) check(code, path);
    return Entry(code == GIT_ENOTFOUND ? nullptr : raw);
  }
  [[nodiscard]] Tree find_tree(const std::string& commit, const std::string& path) const {
    if (path == ".") return tree_of(commit);
    const auto entry = find_entry(commit, path);
    if (entry == nullptr || type_of(*entry) != GitEntry::Type::directory) return nullptr;
    return make<git_tree, git_tree_free>(path, [&](git_tree** out) {
      return git_tree_lookup(out, repository_.get(), git_tree_entry_id(entry.get()));
    });
  }

  base::CPtr<git_repository, git_repository_free> repository_;
};

/// Whether objects were left with a remote (git clone --filter).
bool is_partial(git_repository* repository) {
  git_config* raw = nullptr;
  if (git_repository_config_snapshot(&raw, repository) < 0)
    return true;  // git will say what is wrong with it
  const base::CPtr<git_config, git_config_free> config(raw);
  const char* value = nullptr;
  if (git_config_get_string(&value, raw, "extensions.partialclone") == 0) return true;
  int found = 0;
  (void)git_config_foreach_match(
      raw, "^remote\\..*\\.(promisor|partialclonefilter)$",
      [](const git_config_entry*, void* payload) {
        *static_cast<int*>(payload) = 1;
        return 1;
      },
      &found);
  return found != 0;
}

}  // namespace

std::unique_ptr<Repository> open_with_libgit2(const std::string& top) {
  static std::once_flag once;
  std::call_once(once, [] { git_libgit2_init(); });
  git_repository* raw = nullptr;
  const int code = git_repository_open_ext(&raw, top.c_str(), GIT_REPOSITORY_OPEN_NO_SEARCH, nullptr);
  if (code == GIT_EOWNER) check(code, "repository " + top);
  if (code < 0) return nullptr;
  base::CPtr<git_repository, git_repository_free> opened(raw);
  if (git_repository_is_shallow(raw) == 1) return nullptr;  // it would look for parents that are not there
  if (is_partial(raw)) return nullptr;                      // git fetches what is not there
  return std::make_unique<Libgit2Repository>(top, opened.release());
}

}  // namespace shrub::internal
