#include "wedge/unpack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "formats/tar/tar_header.h"
#include "formats/tar/tar_reader.h"
#include "wedge/internal/place_file.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;
using formats::Row;
using formats::TarMember;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, what);
}

/// A member's name as a path of a tree: without `.` and empty components.
std::string tree_path(const std::string& name) {
  const auto shown = [&] { return "tar: name '" + formats::escape(name).substr(0, 200) + "' "; };
  std::string path;
  // An absolute name is one below the tree, as GNU tar has it.
  for (std::string_view rest = name; !rest.empty();) {
    const auto component = base::take_field(rest, '/');
    if (component == "..") refuse(shown() + "may escape");
    if (component.empty() || component == ".") continue;
    path += (path.empty() ? "" : "/") + std::string(component);
  }
  if (path.empty()) return ".";
  if (!formats::is_safe_path(path)) refuse(shown() + "is too long, or no path");
  return path;
}

struct InManifestOrder {
  bool operator()(const std::string& a, const std::string& b) const {
    return formats::compare_paths(a, b) < 0;
  }
};

class Unpacker {
 public:
  /// `options` is nullptr if nothing is to be written.
  Unpacker(base::ObjectFormat format, std::uint64_t max_holes, const WriteOptions* options)
      : hasher_(format), max_holes_(max_holes), options_(options) {
    make_implicit(".");
  }

  void make_top(int parent, const std::string& name) {
    if (::mkdirat(parent, name.c_str(), 0700) != 0) base::throw_errno("make directory " + name, errno);
    top_ = base::open_directory(parent, name);
  }

  void run(const formats::ByteSource& archive, const std::string& kind) try {
    const auto decoder = formats::make_decoder(archive_codec(kind), archive);
    formats::TarReader reader([&](base::MutableBytes buffer) { return decoder->read(buffer); });
    for (TarMember member; reader.next(member);) {
      const auto path = tree_path(member.path);
      if (member.has_acl) ++acls_;
      base::named(formats::escape(path), [&] { take(path, member, reader); });
    }
  } catch (const Error& error) {
    if (error.category() != Category::corrupt) throw;
    refuse(error.what());  // the bytes are those of their id; what they say is at fault
  }

  /// `on_row` may be empty.
  void finish(const std::function<void(const Row&)>& on_row) {
    std::map<std::uint64_t, std::string> first_of;  // hard link group: its first path
    for (auto& [path, node] : nodes_) {
      if (is_left_out(node.row)) continue;
      if (top_) internal::count_skipped(node.row, options_->fidelity, summary_);
      node.row.path = path;
      if (node.row.type != Row::Type::directory) {
        const auto [first, fresh] = first_of.try_emplace(node.group, path);
        if (!fresh) {
          Row link;
          link.type = Row::Type::hard_link;
          link.target = first->second;
          link.path = path;
          if (on_row) on_row(link);
          continue;
        }
      }
      if (on_row) on_row(node.row);
    }
    if (!top_) return;
    for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
      if (node->second.row.type != Row::Type::directory || node->first == ".") continue;
      const auto dir = base::open_beneath(top_.get(), node->first, O_RDONLY | O_DIRECTORY);
      note(internal::set_metadata(dir.get(), node->second.row, options_->fidelity));
    }
  }

  [[nodiscard]] std::uint64_t acls() const noexcept { return acls_; }
  [[nodiscard]] const WriteSummary& summary() const { return summary_; }

 private:
  struct Node {
    Row row;
    std::uint64_t group = 0;  ///< nodes of one group are one file
  };

  void take(const std::string& path, const TarMember& member, formats::TarReader& reader) {
    if (member.type == TarMember::Type::socket)
      refuse("tar: a socket, or a type of member that is not known");
    if (path == "." && member.type != TarMember::Type::directory)
      refuse("tar: the tree itself is no directory");
    if (path != ".") make_parents(path);
    const auto there = nodes_.find(path);
    if (member.type == TarMember::Type::directory) {
      if (there != nodes_.end() && there->second.row.type != Row::Type::directory)
        refuse("tar: a directory in place of a file");
      if (there == nodes_.end()) make_implicit(path);
      nodes_[path].row = row_of(member, Row::Type::directory);
      return;
    }
    if (there != nodes_.end() && there->second.row.type == Row::Type::directory)
      refuse("tar: a file in place of a directory");
    if (member.type == TarMember::Type::hard_link) return link(path, member);
    if (there != nodes_.end()) forget(path);
    place(path, member, reader);
  }

  void note(const internal::Lost& lost) {
    summary_.skipped_xattrs += lost.xattrs;
    if (lost.other) ++summary_.kept_otherwise;
  }

  [[nodiscard]] bool is_left_out(const Row& row) const {
    return top_ && internal::is_left_out(row, options_->fidelity);
  }

  void make_parents(const std::string& path) {
    for (auto slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      const auto parent = path.substr(0, slash);
      const auto there = nodes_.find(parent);
      if (there == nodes_.end())
        make_implicit(parent);
      else if (there->second.row.type != Row::Type::directory)
        refuse("tar: lies below what is no directory");
    }
  }

  void make_implicit(const std::string& path) {
    Row row;
    row.type = Row::Type::directory;
    row.mode = 0755;
    nodes_[path] = {row, 0};
    if (!top_ || path == ".") return;
    const auto [parent, name] = formats::split_path(path);
    if (::mkdirat(directory(parent), name.c_str(), 0700) != 0) base::throw_errno("make directory", errno);
  }

  void forget(const std::string& path) {
    nodes_.erase(path);
    const auto [parent, name] = formats::split_path(path);
    // ENOENT: a special file that was left out has a node, but is not in the tree that is being made.
    if (top_ && ::unlinkat(directory(parent), name.c_str(), 0) != 0 && errno != ENOENT)
      base::throw_errno("replace", errno);
  }

  void link(const std::string& path, const TarMember& member) {
    const auto target = tree_path(member.target);
    const auto there = nodes_.find(target);
    if (there == nodes_.end() || there->second.row.type == Row::Type::directory)
      refuse("tar: hard link to what is no earlier file: " + formats::escape(target));
    if (target == path) return;
    const Node node = there->second;
    if (nodes_.contains(path)) forget(path);
    nodes_[path] = node;
    if (!top_ || is_left_out(node.row)) return;
    const auto [from_parent, from] = formats::split_path(target);
    const auto [to_parent, to] = formats::split_path(path);
    const auto source = base::open_beneath(top_.get(), from_parent, O_RDONLY | O_DIRECTORY);
    note(internal::make_link(source.get(), from, directory(to_parent), to));
  }

  void place(const std::string& path, const TarMember& member, formats::TarReader& reader) {
    static constexpr std::pair<TarMember::Type, Row::Type> kTypes[] = {
        {TarMember::Type::file, Row::Type::file},
        {TarMember::Type::symlink, Row::Type::symlink},
        {TarMember::Type::character_device, Row::Type::character_device},
        {TarMember::Type::block_device, Row::Type::block_device},
        {TarMember::Type::fifo, Row::Type::fifo}};
    Row row;
    for (const auto& [from, to] : kTypes)
      if (from == member.type) row = row_of(member, to);
    const auto [parent, name] = formats::split_path(path);
    if (row.type == Row::Type::file) {
      write_file(row, member, reader, parent, name);
    } else if (row.type == Row::Type::symlink) {
      if (row.target.empty()) refuse("tar: a symlink to nowhere");
      if (top_) note(internal::make_symlink(directory(parent), name, row, options_->fidelity));
    } else if (is_left_out(row)) {
      ++summary_.skipped_special;
    } else if (top_) {
      note(internal::make_special(directory(parent), name, row, options_->fidelity));
    }
    nodes_[path] = {std::move(row), ++groups_};
  }

  void write_file(Row& row, const TarMember& member, formats::TarReader& reader, const std::string& parent,
                  const std::string& name) {
    base::UniqueFd fd;
    if (top_) fd = base::open_at(directory(parent), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    internal::ContentWriter writer(fd.get(), false);
    hasher_.reset(member.size);
    std::uint64_t size = 0;
    const auto hole = [&](std::uint64_t end) {
      holes_ += end - size;
      if (holes_ > max_holes_)
        throw Error(Category::refused,
                    "tar: more than " + base::human_size(max_holes_) + " of holes in an archive of this size",
                    "--allow-holes SIZE, if that is meant");
      hasher_.update_zeros(end - size);
      writer.skip(end - size);
      size = end;
    };
    while (const auto part = reader.next_part()) {
      if (part->offset < size || part->offset > member.size ||
          part->bytes.size() > member.size - part->offset)
        refuse("tar: a member is longer than it says");
      hole(part->offset);
      size += part->bytes.size();
      hasher_.update(part->bytes);
      if (top_) writer.write(part->bytes);
    }
    hole(member.size);
    if (top_) writer.finish();
    row.blob = hasher_.finish();
    if (!top_) return;
    note(internal::set_metadata(fd.get(), row, options_->fidelity));
    fd.close();
    ++summary_.files;
    summary_.fetched_size += size;
    if (options_->progress) options_->progress(summary_.fetched_size);
  }

  static Row row_of(const TarMember& member, Row::Type type) {
    Row row;
    row.type = type;
    row.mode = type == Row::Type::symlink ? 0 : member.mode;
    row.uid = member.uid;
    row.gid = member.gid;
    row.mtime = {member.mtime, member.mtime_nanoseconds};
    row.size = member.size;
    if (type == Row::Type::symlink) row.target = member.target;
    if (type == Row::Type::character_device || type == Row::Type::block_device)
      row.target = std::to_string(member.device_major) + ":" + std::to_string(member.device_minor);
    if (type == Row::Type::file || type == Row::Type::directory)
      for (const auto& [name, value] : member.xattrs)
        if (name.starts_with("user.") || name == "security.capability") row.xattrs.emplace(name, value);
    return row;
  }

  /// A handle on a directory of the tree; the last one stays open.
  int directory(const std::string& path) {
    if (path != open_path_ || !open_) {
      open_ = base::open_beneath(top_.get(), path, O_RDONLY | O_DIRECTORY);
      open_path_ = path;
    }
    return open_.get();
  }

  base::ObjectHasher hasher_;
  const std::uint64_t max_holes_;
  std::uint64_t holes_ = 0;  ///< bytes, of all members
  std::uint64_t acls_ = 0;   ///< members with access control lists
  const WriteOptions* options_;
  base::UniqueFd top_, open_;
  std::string open_path_;
  std::map<std::string, Node, InManifestOrder> nodes_;
  std::uint64_t groups_ = 0;
  WriteSummary summary_;
};

}  // namespace

formats::Codec archive_codec(const std::string& kind) {
  const auto codec =
      kind.starts_with("tar") ? formats::find_codec(std::string_view(kind).substr(3)) : std::nullopt;
  if (!codec) refuse("unknown kind of archive '" + kind + "'");
  return *codec;
}

std::uint64_t max_archive_holes(std::uint64_t size, std::uint64_t allowed) noexcept {
  constexpr std::uint64_t kAlways = std::uint64_t{1} << 30, kTimes = 100;
  return std::max({kAlways, size > UINT64_MAX / kTimes ? UINT64_MAX : size * kTimes, allowed});
}

std::string archive_kind(base::Bytes beginning) {
  const auto text = base::as_chars(beginning);
  constexpr std::pair<std::string_view, const char*> kCompressed[] = {{"\x1f\x8b", "tar.gz"},
                                                                      {"BZh", "tar.bz2"},
                                                                      {std::string_view("\xfd"
                                                                                        "7zXZ\0",
                                                                                        6),
                                                                       "tar.xz"},
                                                                      {"\x28\xb5\x2f\xfd", "tar.zst"}};
  for (const auto& [begin, kind] : kCompressed)
    if (text.starts_with(begin)) return kind;
  if (text.size() > 4 && (text[0] & '\xf0') == 0x50 && text.substr(1, 3) == "\x2a\x4d\x18")
    return "tar.zst";  // a skippable frame
  constexpr std::pair<std::string_view, const char*> kOthers[] = {{"\x1f\x9d", "compress"},
                                                                  {"LZIP", "lzip"},
                                                                  {std::string_view("\x5d\0\0", 3), "lzma"},
                                                                  {"PK", "zip"},
                                                                  {"7z", "7z"},
                                                                  {"Rar!", "rar"}};
  for (const auto& [begin, name] : kOthers)
    if (text.starts_with(begin))
      refuse(std::string("packed by ") + name +
             ", which is not read here: a tar, or one compressed by gzip, bzip2, xz or zstd is");
  if (formats::TarHeader header; beginning.size() >= header.size()) {
    std::copy_n(beginning.begin(), header.size(), header.begin());
    if (formats::is_zero_block(header) || formats::has_right_sum(header)) return "tar";
  }
  refuse("no tar, nor one compressed by gzip, bzip2, xz or zstd");
}

std::uint64_t list_archive(const formats::ByteSource& archive, const std::string& kind,
                           base::ObjectFormat format, std::uint64_t max_holes,
                           const std::function<void(const Row&)>& on_row) {
  Unpacker unpacker(format, max_holes, nullptr);
  unpacker.run(archive, kind);
  unpacker.finish(on_row);
  return unpacker.acls();
}

WriteSummary unpack_archive(const formats::ByteSource& archive, const std::string& kind,
                            base::ObjectFormat format, std::uint64_t max_holes, int parent,
                            const std::string& name, const WriteOptions& options) {
  Unpacker unpacker(format, max_holes, &options);
  unpacker.make_top(parent, name);
  unpacker.run(archive, kind);
  unpacker.finish(options.on_row);
  return unpacker.summary();
}

}  // namespace wedge
