// Inode numbers, from 1: the nodes of the frame, which is the directories that vrefs lie in with the files
// and images among them; then those of the tree of each entry, as many as the entry says that it has. What
// does not fit below 2^32, and nodes that the entry did not speak of, have numbers above: n + 1 for entry n
// in the bits from kTreeShift on, and the number of the node.
#include "wedge/mount_tree.h"

#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "formats/text/layout.h"
#include "vat/content.h"
#include "wedge/internal/place_file.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::Row;

constexpr int kTreeShift = 40;
constexpr std::uint64_t kNarrow = std::uint64_t{1} << 32;  ///< numbers below fit 32 bits
constexpr std::size_t kFrame = SIZE_MAX;

struct Node {
  Row::Type type = Row::Type::directory;
  std::uint32_t mode = 0, uid = 0, gid = 0;
  std::uint32_t links = 1;
  std::uint32_t parent = 0, original = 0;  ///< original: itself, or what a hard link leads to
  std::uint32_t entry = UINT32_MAX;        ///< tree 0: the tree or file that stands here
  formats::Timestamp mtime;
  std::uint64_t size = 0;
  bool may_have_holes = false;
  ObjectId blob;
  std::string name, target;
  std::vector<std::uint32_t> members;  ///< in the order of their names
  std::unique_ptr<const std::map<std::string, std::string>> xattrs;
};

/// Nodes; the first is the top.
struct Nodes {
  std::vector<Node> nodes;

  std::uint32_t add(std::uint32_t parent, std::string name, Node node) {
    const auto number = static_cast<std::uint32_t>(nodes.size());
    node.parent = parent;
    node.original = number;
    node.name = std::move(name);
    if (number != parent) {
      nodes[parent].members.push_back(number);
      if (node.type == Row::Type::directory) ++nodes[parent].links;
    }
    nodes.push_back(std::move(node));
    return number;
  }

  [[nodiscard]] std::optional<std::uint32_t> find(std::uint32_t directory, std::string_view name) const {
    const auto& members = nodes[directory].members;
    const auto at = std::lower_bound(
        members.begin(), members.end(), name,
        [&](std::uint32_t member, std::string_view wanted) { return nodes[member].name < wanted; });
    return at != members.end() && nodes[*at].name == name ? std::optional(*at) : std::nullopt;
  }

  [[nodiscard]] std::optional<std::uint32_t> find_path(std::string_view path) const {
    std::uint32_t at = 0;
    while (!path.empty()) {
      const auto next = find(at, base::take_field(path, '/'));
      if (!next) return std::nullopt;
      at = *next;
    }
    return at;
  }
};

Node directory_node() {
  Node node;
  node.mode = 0555;
  node.links = 2;
  return node;
}

/// The nodes of one tree.
Nodes read_tree(vat::BlobSource& source, const ObjectId& manifest) {
  const auto get = [&](const ObjectId& id) { return source.read(id); };
  formats::ManifestReader reader(source.read(manifest), source.object_format(), get);
  Nodes tree;
  std::vector<std::pair<std::string, std::uint32_t>> open;  ///< directories that the last row lies in
  for (Row row; reader.next(row);) {
    Node node;
    node.type = row.type;
    node.mode = row.mode;
    node.uid = row.uid;
    node.gid = row.gid;
    node.links = row.type == Row::Type::directory ? 2 : 1;
    node.mtime = row.mtime;
    node.size = row.size;
    node.may_have_holes = row.sparse;
    node.blob = row.blob;
    node.target = row.target;
    if (!row.xattrs.empty())
      node.xattrs = std::make_unique<const std::map<std::string, std::string>>(std::move(row.xattrs));
    if (tree.nodes.empty()) {  // the reader has seen to it that the first is the tree itself
      (void)tree.add(0, "", std::move(node));
      open.emplace_back("", 0);
      continue;
    }
    const auto [parent, name] = formats::split_path(row.path);
    const auto& above = parent == "." ? std::string() : parent;
    while (open.back().first != above) open.pop_back();  // the reader has seen to it that it is there
    const bool is_link = row.type == Row::Type::hard_link;
    const auto number = tree.add(open.back().second, name, std::move(node));
    if (row.type == Row::Type::directory) open.emplace_back(row.path, number);
    if (is_link) {
      const auto original = tree.find_path(row.target);
      if (!original || tree.nodes[*original].type == Row::Type::directory)
        throw Error(Category::refused, "manifest: a hard link to what is not an earlier file");
      tree.nodes[number].original = tree.nodes[*original].original;
      ++tree.nodes[tree.nodes[number].original].links;
    }
  }
  return tree;
}

}  // namespace

class MountTree::Impl {
 public:
  Impl(vat::BlobSource& source, const std::vector<MountEntry>& entries, bool keep_owners)
      : source_(source), keep_owners_(keep_owners), entries_(entries), trees_(entries.size()) {
    (void)frame_.add(0, "", directory_node());
    std::vector<std::size_t> order(entries.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return formats::compare_paths(entries[a].path, entries[b].path) < 0;
    });
    for (const auto number : order) {
      std::uint32_t at = 0;
      std::string_view rest = entries[number].path;
      while (!rest.empty()) {
        const std::string name(base::take_field(rest, '/'));
        const auto known = frame_.find(at, name);
        if (known) {
          at = *known;
          continue;
        }
        auto node = directory_node();
        if (rest.empty()) {
          const auto& entry = entries[number];
          node.entry = static_cast<std::uint32_t>(number);
          node.mtime = entry.time;
          if (entry.root.type != EntryRoot::Type::tree) {
            node.type = Row::Type::file;
            node.mode = entry.root.executable ? 0555 : 0444;
            node.links = 1;
            node.size = entry.root.size;
            node.may_have_holes = entry.root.type == EntryRoot::Type::image;
          }
        }
        at = frame_.add(at, name, std::move(node));
      }
      // A directory of vrefs is as new as the newest of them.
      for (auto above = at; above != 0;) {
        above = frame_.nodes[above].parent;
        auto& time = frame_.nodes[above].mtime;
        if (time.seconds < entries[number].time.seconds) time = entries[number].time;
      }
    }
    ends_.push_back(1 + frame_.nodes.size());
    for (const auto& entry : entries) {
      const bool is_tree = entry.root.type == EntryRoot::Type::tree;
      ends_.push_back(ends_.back() +
                      (is_tree ? std::min(entry.paths.value_or(1), kNarrow - ends_.back()) : 0));
    }
  }

  struct Place {
    const Nodes* tree;
    const Node* node;
    std::size_t entry;  ///< whose tree it is, or kFrame
    [[nodiscard]] std::uint32_t number() const {
      return static_cast<std::uint32_t>(node - tree->nodes.data());
    }
  };

  [[nodiscard]] Place place_of(Inode inode) {
    auto entry = kFrame;
    auto index = inode - 1;
    if (const auto high = inode >> kTreeShift; high != 0) {
      entry = static_cast<std::size_t>(high - 1);
      index = inode & ((Inode{1} << kTreeShift) - 1);
    } else if (inode >= ends_.front()) {
      const auto end = std::upper_bound(ends_.begin(), ends_.end(), inode);
      entry = static_cast<std::size_t>(end - ends_.begin()) - 1;
      index = inode - ends_[entry];
    }
    if (entry != kFrame && entry >= entries_.size()) throw Error(Category::internal, "no such inode");
    const auto& nodes = entry == kFrame ? frame_ : tree(entry);
    if (index >= nodes.nodes.size()) throw Error(Category::internal, "no such inode");
    return {&nodes, &nodes.nodes[static_cast<std::size_t>(index)], entry};
  }

  [[nodiscard]] Inode number_in(std::size_t entry, std::uint32_t node) const {
    const auto number = ends_[entry] + node;
    return number < ends_[entry + 1] ? number : ((Inode{entry} + 1) << kTreeShift) + node;
  }

  /// A tree stands where the frame has its entry.
  [[nodiscard]] Inode inode_of(const Nodes& nodes, std::size_t entry, std::uint32_t number) const {
    const auto& node = nodes.nodes[number];
    if (entry != kFrame) return number_in(entry, node.original);
    const bool is_tree = node.entry != UINT32_MAX && node.type == Row::Type::directory;
    return is_tree ? number_in(node.entry, 0) : Inode{1} + number;
  }

  const Nodes& tree(std::size_t entry) {
    auto& one = trees_[entry];
    if (const auto* there = one.ready.load(std::memory_order_acquire)) return *there;
    const std::lock_guard lock(one.mutex);
    if (one.nodes == nullptr) {
      (void)learn(entry, false);
      one.nodes = std::make_unique<const Nodes>(base::named(
          entries_[entry].path, [&] { return read_tree(source_, entries_[entry].root.manifest.value()); }));
      one.ready.store(one.nodes.get(), std::memory_order_release);
    }
    return *one.nodes;
  }

  /// False if it failed; whoever reads what could not be learnt hears why.
  bool learn(std::size_t entry, bool content) {
    try {
      source_.learn(entries_[entry].root.content(), content);
      return true;
    } catch (const Error&) {
      return false;
    }
  }
  void learn_content_locked(std::size_t entry) {
    auto& is_learnt = trees_[entry].is_learnt;
    is_learnt = is_learnt || learn(entry, true);
  }
  void learn_content(std::size_t entry) {
    const std::lock_guard lock(trees_[entry].layout_mutex);
    learn_content_locked(entry);
  }

  std::optional<ObjectId> recipe_of(std::size_t entry, const ObjectId& blob) {
    auto& one = trees_[entry];
    const std::lock_guard lock(one.layout_mutex);
    learn_content_locked(entry);
    if (!one.has_layout && entries_[entry].root.layout) {
      formats::LayoutReader reader(source_.read(*entries_[entry].root.layout), source_.object_format(),
                                   [&](const ObjectId& id) { return source_.read(id); });
      std::unordered_map<ObjectId, ObjectId> recipes;
      for (ObjectId of, recipe; reader.next(of, recipe);) recipes.emplace(of, recipe);
      one.recipes = std::move(recipes);
      one.has_layout = true;
    }
    if (const auto known = one.recipes.find(blob); known != one.recipes.end()) return known->second;
    if (one.has_layout) return std::nullopt;
    return vat::find_content(source_, blob).recipe;
  }

  vat::BlobSource& source_;
  const bool keep_owners_;
  const std::vector<MountEntry> entries_;
  Nodes frame_;
  /// The first number behind the frame's, then the first behind those of each entry.
  std::vector<Inode> ends_;

  std::atomic<bool> are_lists_kept_ = false;  ///< access control lists, by whoever looks
 private:
  struct Tree {
    std::mutex mutex, layout_mutex;
    std::atomic<const Nodes*> ready = nullptr;
    std::unique_ptr<const Nodes> nodes;
    bool has_layout = false, is_learnt = false;
    std::unordered_map<ObjectId, ObjectId> recipes;  ///< by content
  };
  std::vector<Tree> trees_;
};

MountTree::MountTree(vat::BlobSource& source, const std::vector<MountEntry>& entries, bool keep_owners)
    : impl_(std::make_unique<Impl>(source, entries, keep_owners)) {}
MountTree::~MountTree() = default;

MountTree::Inode MountTree::find(Inode directory, std::string_view name) {
  const auto place = impl_->place_of(directory);
  const auto number = place.tree->find(place.number(), name);
  return number ? impl_->inode_of(*place.tree, place.entry, *number) : 0;
}

struct stat MountTree::stat_of(Inode inode) {
  const auto place = impl_->place_of(inode);
  const auto& node = *place.node;
  struct stat info {};
  static constexpr std::array<std::pair<Row::Type, mode_t>, 6> kTypes{{{Row::Type::directory, S_IFDIR},
                                                                       {Row::Type::file, S_IFREG},
                                                                       {Row::Type::symlink, S_IFLNK},
                                                                       {Row::Type::character_device, S_IFCHR},
                                                                       {Row::Type::block_device, S_IFBLK},
                                                                       {Row::Type::fifo, S_IFIFO}}};
  for (const auto& [type, bits] : kTypes)
    if (type == node.type) info.st_mode = bits;
  info.st_mode |= node.type == Row::Type::symlink ? 0777
                  : node.xattrs == nullptr || impl_->are_lists_kept_
                      ? node.mode
                      : internal::mode_within_acl(node.mode, *node.xattrs);
  info.st_ino = inode;
  info.st_nlink = node.links;
  const bool is_recorded = impl_->keep_owners_ && place.entry != kFrame;
  // Who is of the file's group is none of the mount's, and gets no more for that.
  if (!is_recorded && node.type != Row::Type::symlink) info.st_mode &= ~07U | (info.st_mode >> 3 & 07U);
  info.st_uid = is_recorded ? node.uid : ::geteuid();
  info.st_gid = is_recorded ? node.gid : ::getegid();
  info.st_size = static_cast<off_t>(node.type == Row::Type::symlink ? node.target.size() : node.size);
  info.st_blksize = 4096;
  info.st_blocks = node.type == Row::Type::file ? static_cast<blkcnt_t>((node.size + 511) / 512) : 0;
  info.st_mtim = {node.mtime.seconds, node.mtime.nanoseconds};
  info.st_atim = info.st_ctim = info.st_mtim;
  if (node.type == Row::Type::character_device || node.type == Row::Type::block_device) {
    std::string_view rest = node.target;
    const auto major = base::parse_decimal(base::take_field(rest, ':'));
    const auto minor = base::parse_decimal(rest);
    if (major && minor)
      info.st_rdev = ::makedev(static_cast<unsigned>(*major), static_cast<unsigned>(*minor));
  }
  return info;
}

void MountTree::let_lists_be_kept() {
  impl_->are_lists_kept_ = true;
}

std::string MountTree::target_of(Inode symlink) {
  return impl_->place_of(symlink).node->target;
}

const std::map<std::string, std::string>& MountTree::xattrs_of(Inode inode) {
  static const std::map<std::string, std::string> kNone;
  const auto& xattrs = impl_->place_of(inode).node->xattrs;
  return xattrs != nullptr ? *xattrs : kNone;
}

void MountTree::list(Inode directory, std::size_t first,
                     const std::function<bool(std::string_view, Inode)>& visit) {
  const auto place = impl_->place_of(directory);
  const auto& members = place.node->members;
  for (auto i = first; i < members.size(); ++i)
    if (!visit(place.tree->nodes[members[i]].name, impl_->inode_of(*place.tree, place.entry, members[i])))
      return;
}

MountTree::Inode MountTree::parent_of(Inode directory) {
  const auto place = impl_->place_of(directory);
  if (place.entry == kFrame || place.number() != 0)
    return impl_->inode_of(*place.tree, place.entry, place.node->parent);
  // The top of a tree lies where the frame has it.
  const auto parent = formats::split_path(impl_->entries_[place.entry].path).first;
  const auto above = parent == "." ? 0 : impl_->frame_.find_path(parent).value_or(0);
  return impl_->inode_of(impl_->frame_, kFrame, above);
}

MountTree::Content MountTree::content_of(Inode file) {
  const auto place = impl_->place_of(file);
  const auto& node = *place.node;
  if (node.type != Row::Type::file) throw Error(Category::internal, "no file");
  if (place.entry == kFrame) {
    const auto& root = impl_->entries_[node.entry].root;
    impl_->learn_content(node.entry);
    return {root.blob, root.recipe};
  }
  return {node.blob, node.size == 0 ? std::nullopt : impl_->recipe_of(place.entry, node.blob)};
}

std::optional<base::ObjectId> MountTree::find_blob(Inode file) {
  const auto place = impl_->place_of(file);
  if (place.node->type != Row::Type::file) return std::nullopt;
  return place.entry == kFrame ? impl_->entries_[place.node->entry].root.blob
                               : std::optional(place.node->blob);
}

bool MountTree::may_have_holes(Inode inode) {
  return impl_->place_of(inode).node->may_have_holes;
}

const std::vector<MountEntry>& MountTree::entries() const noexcept {
  return impl_->entries_;
}

std::string MountTree::path_of(Inode inode) {
  const auto place = impl_->place_of(inode);
  std::string path;
  for (const auto* node = place.node; node != place.tree->nodes.data();
       node = &place.tree->nodes[node->parent])
    path = node->name + (path.empty() ? "" : "/" + path);
  if (place.entry == kFrame) return path;
  const auto& entry = impl_->entries_[place.entry].path;
  return path.empty() ? entry : entry + "/" + path;
}

}  // namespace wedge
