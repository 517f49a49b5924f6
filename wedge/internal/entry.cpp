#include "wedge/internal/entry.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <filesystem>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/mounts.h"
#include "formats/disk/qcow2_writer.h"
#include "formats/text/recipe.h"
#include "wedge/internal/content_update.h"
#include "wedge/internal/entry_key.h"
#include "wedge/internal/kept.h"
#include "wedge/internal/record.h"
#include "wedge/lazy_disk.h"
#include "wedge/unpack.h"

namespace wedge::internal {

using base::Category;
using base::Error;
using base::find_stat;
using base::ObjectId;
using formats::Row;

namespace {

bool is_zero(base::Bytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

/// Whether a part of a disk reads as zeros.
bool is_hole(formats::Disk& disk, std::uint64_t begin, std::uint64_t end, base::Buffer& buffer) {
  buffer.resize(std::size_t{64} << 10);
  for (auto extent = disk.find_extent(begin); extent.begin < end; extent = disk.find_extent(extent.end)) {
    const auto stop = std::min(extent.end, end);
    for (auto at = std::max(extent.begin, begin); at < stop;) {
      const auto part = base::MutableBytes(buffer).first(
          static_cast<std::size_t>(std::min<std::uint64_t>(stop - at, buffer.size())));
      disk.read(at, part);
      if (!is_zero(part)) return false;
      at += part.size();
    }
    if (stop == end) break;
  }
  return true;
}

}  // namespace

bool holds_recipe(vat::BlobSource& source, const ObjectId& recipe, formats::Disk& disk) {
  formats::RecipeReader reader(source.read(recipe), source.object_format(),
                               [&](const ObjectId& id) { return source.read(id); });
  if (reader.header().size != disk.size()) return false;
  base::ObjectHasher hasher(source.object_format());
  base::Buffer buffer;
  for (formats::RecipeItem item; reader.next(item);) {
    const std::uint64_t offset = reader.offset() - item.size;
    if (item.type == formats::RecipeItem::Type::hole) {
      if (!is_hole(disk, offset, offset + item.size, buffer)) return false;
      continue;
    }
    buffer.resize(static_cast<std::size_t>(item.size));
    disk.read(offset, buffer);
    if (item.type == formats::RecipeItem::Type::chunk) {
      if (hasher.hash(buffer) != item.id) return false;
    } else {
      const auto blob = source.read(item.id);
      if (item.offset + item.size > blob.size() ||
          !std::equal(buffer.begin(), buffer.end(), blob.begin() + static_cast<std::ptrdiff_t>(item.offset)))
        return false;
    }
  }
  return true;
}

bool is_by_product(const std::string& path) {
  return ::fnmatch("*.pyc", path.c_str(), 0) == 0 ||
         ("/" + path + "/").find("/__pycache__/") != std::string::npos;
}

void refuse_mounts(int top, const std::string& path) {
  std::string place(PATH_MAX, '\0');
  const ssize_t size =
      ::readlink(("/proc/self/fd/" + std::to_string(top)).c_str(), place.data(), place.size());
  if (size < 0) return;  // without /proc the move will say
  place.resize(static_cast<std::size_t>(size));
  place += (place == "/" ? "" : "/") + path;
  for (const auto& mount : base::read_mounts())
    if (mount.point == place || mount.point.starts_with(place + "/"))
      throw Error(Category::local, formats::escape(mount.point) + ": something is mounted there",
                  "unmount it, or mount it outside of the wedge");
}

WritableTop::WritableTop(int parent, const std::string& name) {
  const auto info = find_stat(parent, name);
  if (!info || !S_ISDIR(info->st_mode) || (info->st_mode & S_IWUSR) != 0) return;
  mode_ = info->st_mode & 07777;
  (void)::fchmodat(parent, name.c_str(), *mode_ | S_IWUSR, 0);  // the move will say if it was not enough
  fd_ = base::open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

WritableTop::~WritableTop() {
  if (mode_) (void)::fchmod(fd_.get(), *mode_);
}

base::UniqueFd spool(vat::BlobSource& source, const EntryRoot& root,
                     const std::vector<base::ScratchPlace>& places) {
  return base::use_scratch(places, [&](const base::ScratchPlace& place) {
    auto fd = base::open_nameless(place.path);
    (void)write_content(source, root.blob, root.recipe, root.size, true, fd.get());
    if (::lseek(fd.get(), 0, SEEK_SET) != 0) base::throw_errno("spool", errno);
    return fd;
  });
}

formats::ByteSource reading(int fd) {
  return [fd](base::MutableBytes buffer) { return base::read_some(fd, buffer); };
}

ObjectId hash_content(int fd, base::ObjectFormat format, std::uint64_t size) {
  base::ObjectHasher hasher(format);
  hasher.reset(size);
  base::Buffer buffer(std::size_t{1} << 20);
  while (const std::size_t count = base::read_some(fd, buffer)) {
    if (count > size) return {};  // it grew
    size -= count;
    hasher.update(base::Bytes(buffer).subspan(0, count));
  }
  return size == 0 ? hasher.finish() : ObjectId();
}

namespace {

/// An image of a recipe, and what of it is not as in another.
class ImageDisk final : public formats::Disk {
 public:
  ImageDisk(vat::BlobSource& source, const ObjectId& recipe, std::uint64_t size)
      : reader_(source, {}),
        disk_(open_lazy_disk(reader_,
                             reader_.open(size,
                                          [recipe] {
                                            return LazyReader::Made{std::nullopt, recipe};
                                          }),
                             size)) {}
  ImageDisk(vat::BlobSource& source, const ObjectId& recipe, std::uint64_t size, const ObjectId& below)
      : ImageDisk(source, recipe, size) {
    changed_ = find_changed_extents(source, below, recipe);
  }
  [[nodiscard]] std::uint64_t size() const noexcept override { return disk_->size(); }
  [[nodiscard]] Extent find_extent(std::uint64_t at) override { return disk_->find_extent(at); }
  [[nodiscard]] Extent find_changed(std::uint64_t at) override {
    const auto next = std::partition_point(changed_.begin(), changed_.end(),
                                           [&](const Extent& extent) { return extent.end <= at; });
    return next == changed_.end() ? Extent{size(), size()} : Extent{std::max(at, next->begin), next->end};
  }
  void read(std::uint64_t at, base::MutableBytes to) override { disk_->read(at, to); }

 private:
  LazyReader reader_;
  std::unique_ptr<formats::Disk> disk_;
  std::vector<Extent> changed_;
};

/// How an overlay names what it stands on.
formats::Backing backing_of(const EntryRoot::Below& below, const std::string& path) {
  const auto name = std::filesystem::path(below.entry)
                        .lexically_relative(std::filesystem::path(path).parent_path())
                        .generic_string();
  return {name, below.is_qcow2 ? "qcow2" : "raw"};
}

}  // namespace

std::uint64_t write_image_as_qcow2(vat::BlobSource& source, const EntryRoot& root, const std::string& path,
                                   int dir, const std::string& name,
                                   const std::function<void(std::uint64_t)>& progress) {
  auto fd = base::open_at(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (root.below) {
    ImageDisk disk(source, *root.recipe, root.size, root.below->recipe);
    formats::write_qcow2(disk, fd.get(), {backing_of(*root.below, path), false}, progress);
  } else {
    ImageDisk disk(source, *root.recipe, root.size);
    formats::write_qcow2(disk, fd.get(), {std::nullopt, root.form == EntryRoot::Form::qcow2_zstd}, progress);
  }
  const auto size = base::file_size(fd.get());
  fd.close();
  return size;
}

namespace {

/// Whether what a guest sees of the file is what the recipe says; of an overlay, above what it is to stand
/// on.
bool holds_as_qcow2(vat::BlobSource& source, const EntryRoot& root, const std::string& path, int fd) {
  try {
    const auto size = base::file_size(fd);
    const auto wanted = root.below ? std::optional(backing_of(*root.below, path)) : std::nullopt;
    if (formats::find_backing(base::reader_of(fd), size) != wanted) return false;  // it is not ours
    const auto disk = formats::open_qcow2(
        base::reader_of(fd), size,
        root.below ? std::make_unique<ImageDisk>(source, root.below->recipe, root.below->size) : nullptr);
    return disk->size() == root.size && holds_recipe(source, *root.recipe, *disk);
  } catch (const Error& error) {
    if (!std::string_view(error.what()).starts_with("qcow2: ")) throw;
    return false;
  }
}

}  // namespace

std::uint64_t verify_below(vat::BlobSource& source, int top, int records, const std::string& path,
                           const EntryRoot& root, const CompareOptions& options,
                           const std::function<void(const Difference&)>& on_difference) {
  const auto report = [&](Difference::Kind kind) {
    on_difference({kind, ".", {}});
    return std::uint64_t{1};
  };
  const auto compare = [&](int dir, const NextRow& wanted) {
    const auto state = record_name(path) + ".state";
    const auto record = read_sound_record(records, state);
    if (!record || !record->kept || record->key != key_of(root, fidelity_of(record->key)))
      return compare_tree(dir, source.object_format(), wanted, options, on_difference);
    std::uint64_t kept = 0;
    const auto count = compare_tree(dir, source.object_format(), as_kept(wanted, records, state, kept),
                                    options, on_difference);
    if (options.on_kept) options.on_kept(kept);
    return count;
  };
  const auto [parent_path, name] = formats::split_path(path);
  std::optional<struct stat> info;
  base::UniqueFd parent;
  try {
    parent = base::open_beneath(top, parent_path, O_RDONLY | O_DIRECTORY);
    info = find_stat(parent.get(), name);
  } catch (const Error& error) {
    if (error.category() != Category::not_found && error.category() != Category::refused) throw;
  }
  if (!info) return report(Difference::Kind::missing);
  if (!root.unpack.empty()) {
    if (!S_ISDIR(info->st_mode)) return report(Difference::Kind::type);
    const auto dir = base::open_beneath(parent.get(), name, O_RDONLY | O_DIRECTORY);
    const auto archive = spool(
        source, root,
        options.scratch.empty() ? std::vector<base::ScratchPlace>{{"/tmp", "the default"}} : options.scratch);
    std::vector<Row> rows;
    (void)list_archive(reading(archive.get()), root.unpack, source.object_format(),
                 max_archive_holes(root.size, options.allow_holes),
                 [&](const Row& row) { rows.push_back(row); });
    return compare(dir.get(), [&, next = rows.begin()](Row& row) mutable {
      if (next == rows.end()) return false;
      row = *next++;
      return true;
    });
  }
  if (root.type == EntryRoot::Type::tree) {
    if (!S_ISDIR(info->st_mode)) return report(Difference::Kind::type);
    const auto dir = base::open_beneath(parent.get(), name, O_RDONLY | O_DIRECTORY);
    auto reader = read_manifest(source, *root.manifest);
    return compare(dir.get(), [&](Row& row) { return reader.next(row); });
  }
  if (!S_ISREG(info->st_mode)) return report(Difference::Kind::type);
  std::uint64_t differences = 0;
  if (root.executable && (info->st_mode & S_IXUSR) == 0) {
    const auto state = record_name(path) + ".state";
    const auto record = read_sound_record(records, state);
    const auto made = record && is_executable(record->key) ? read_first(records, state) : std::nullopt;
    if (made && (made->mode & S_IXUSR) == 0) {
      if (options.on_kept) options.on_kept(1);
    } else {
      on_difference({Difference::Kind::metadata, ".", "mode"});
      ++differences;
    }
  }
  const auto holds = [&] {
    if (!root.is_qcow2() && static_cast<std::uint64_t>(info->st_size) != root.size) return false;
    if (!options.read_content) return true;
    const auto fd = base::open_beneath(parent.get(), name, O_RDONLY);
    if (root.is_qcow2()) return holds_as_qcow2(source, root, path, fd.get());
    if (root.recipe) return holds_recipe(source, *root.recipe, *formats::open_raw_disk(fd.get()));
    return hash_content(fd.get(), source.object_format(), root.size) == *root.blob;
  };
  return differences + (holds() ? 0 : report(Difference::Kind::content));
}

}  // namespace wedge::internal
