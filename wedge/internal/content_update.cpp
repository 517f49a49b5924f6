#include "wedge/internal/content_update.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <string>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/line_reader.h"
#include "formats/base/numbers.h"
#include "formats/text/recipe.h"
#include "wedge/internal/place_file.h"

namespace wedge::internal {
namespace {

using base::Category;
using base::Error;
using Item = formats::RecipeItem;

constexpr std::size_t kCopySize = std::size_t{1} << 20;
constexpr std::uint64_t kHoleStep = std::uint64_t{64} << 20;  ///< zeros written at once, if that has to be
constexpr std::size_t kWriteBuffer = std::size_t{256} << 10;  ///< of the list of extents

bool is_same(const Item& a, const Item& b) {
  return a.type == b.type && a.size == b.size && a.offset == b.offset &&
         (a.type == Item::Type::hole || a.id == b.id);
}

void set_size(int fd, std::uint64_t size) {
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0) base::throw_errno("set size", errno);
}

/// Zeros, where the file system has no holes.
void punch(int fd, std::uint64_t offset, std::uint64_t size) {
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(size)) == 0)
    return;
  if (errno != EOPNOTSUPP && errno != ENOSYS) base::throw_errno("punch a hole", errno);
  ContentWriter(fd, false, offset).hole(size);
}

/// How many bytes of a range are in holes or behind the end.
std::uint64_t count_holes(int fd, std::uint64_t offset, std::uint64_t size) {
  std::uint64_t holes = 0;
  for (const std::uint64_t end = offset + size; offset < end;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
    const auto hole_end = data < 0 ? end : std::min(end, static_cast<std::uint64_t>(data));
    holes += hole_end - offset;
    if (hole_end == end) break;
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) break;
    offset = static_cast<std::uint64_t>(hole);
  }
  return holes;
}

/// Filling holes is what can find the disk full: better before anything is overwritten.
void check_room(int fd, std::uint64_t size) {
  struct statvfs room;
  if (size > 0 && ::fstatvfs(fd, &room) == 0 && room.f_bavail * room.f_frsize < size)
    base::throw_errno("make room for " + base::human_size(size) + " in what were holes", ENOSPC);
}

/// The lines of a recipe, to be compared with those of another from front to back.
class OldItems {
 public:
  OldItems(vat::BlobSource& source, const base::ObjectId& recipe)
      : reader_(source.read(recipe), source.object_format(),
                [&source](const base::ObjectId& id) { return source.read(id); }),
        more_(reader_.next(item_)) {}
  /// Whether it has the same line at the same offset. Offsets do not go back.
  [[nodiscard]] bool has(std::uint64_t offset, const Item& item) {
    while (more_ && offset_ < offset) {
      offset_ += item_.size;
      more_ = reader_.next(item_);
    }
    return more_ && offset_ == offset && is_same(item_, item);
  }

 private:
  formats::RecipeReader reader_;
  Item item_;
  std::uint64_t offset_ = 0;
  bool more_;
};

/// Told what changes, in order; no bytes: a hole.
using OnChange = std::function<void(std::uint64_t offset, std::uint64_t size, base::Bytes bytes)>;

/// Returns the size of the new content.
std::uint64_t find_changes(vat::BlobSource& source, const ContentUpdate& update, int fd,
                           const OnChange& on_change) {
  const auto get = [&](const base::ObjectId& id) { return source.read(id); };
  OldItems old(source, update.before);
  formats::RecipeReader reader(source.read(update.after), source.object_format(), get);
  base::ObjectHasher hasher(source.object_format());
  base::Buffer there;
  Item item;
  const auto still_holds = [&](std::uint64_t offset) {
    if (update.trusted) return true;
    if (item.type != Item::Type::chunk) return false;
    there.resize(static_cast<std::size_t>(item.size));
    return base::read_exact_at(fd, offset, there) && hasher.hash(there) == item.id;
  };
  for (std::uint64_t offset = 0; reader.next(item); offset += item.size) {
    if (old.has(offset, item) && still_holds(offset)) continue;
    if (item.type == Item::Type::hole) {
      on_change(offset, item.size, {});
      continue;
    }
    const auto blob = source.read(item.id);
    if (item.offset + item.size > blob.size() || (item.type == Item::Type::chunk && blob.size() != item.size))
      throw Error(Category::refused, "blob " + item.id.hex() + " is not of the size it lists");
    on_change(offset, item.size,
              base::Bytes(blob).subspan(static_cast<std::size_t>(item.offset),
                                        static_cast<std::size_t>(item.size)));
  }
  return reader.header().size;
}

/// Whole zero blocks become holes.
void write_change(int fd, std::uint64_t offset, base::Bytes bytes) {
  for_each_run(offset, bytes, [&](std::uint64_t at, base::Bytes run, bool zero) {
    if (zero)
      punch(fd, at, run.size());
    else
      ContentWriter(fd, false, at).write(run);
  });
}

}  // namespace

std::vector<formats::Disk::Extent> find_changed_extents(vat::BlobSource& source, const base::ObjectId& before,
                                                        const base::ObjectId& after) {
  OldItems old(source, before);
  formats::RecipeReader reader(source.read(after), source.object_format(),
                               [&](const base::ObjectId& id) { return source.read(id); });
  std::vector<formats::Disk::Extent> extents;
  std::uint64_t offset = 0;
  for (Item item; reader.next(item); offset += item.size) {
    if (old.has(offset, item)) continue;
    if (!extents.empty() && extents.back().end == offset)
      extents.back().end += item.size;
    else
      extents.push_back({offset, offset + item.size});
  }
  return extents;
}

std::uint64_t update_content(vat::BlobSource& source, const ContentUpdate& update, int fd) {
  std::uint64_t written = 0;
  const auto size =
      find_changes(source, update, fd, [&](std::uint64_t offset, std::uint64_t count, base::Bytes bytes) {
        if (bytes.empty()) return punch(fd, offset, count);
        write_change(fd, offset, bytes);
        written += count;
      });
  set_size(fd, size);
  return written;
}

std::uint64_t stage_content(vat::BlobSource& source, const ContentUpdate& update, int fd, int work) {
  const auto fresh = base::open_at(work, "new", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  const auto extents = base::open_at(work, "extents", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  std::uint64_t staged = 0, begin = 0, end = 0, data_end = 0, filled = 0;
  bool hole = false;
  std::string text;
  const auto flush = [&] { base::write_all(extents.get(), base::as_bytes(std::exchange(text, {}))); };
  const auto close = [&] {
    if (begin == end) return;
    text += std::string(hole ? "hole " : "data ") + std::to_string(begin) + " " +
            std::to_string(end - begin) + "\n";
    if (text.size() >= kWriteBuffer) flush();
    if (!hole) filled += count_holes(fd, begin, end - begin);
    begin = end;
  };
  (void)find_changes(source, update, fd, [&](std::uint64_t offset, std::uint64_t size, base::Bytes bytes) {
    if (offset != end || bytes.empty() != hole) {
      close();
      begin = offset;
      hole = bytes.empty();
    }
    end = offset + size;
    if (hole) return;
    ContentWriter(fresh.get(), true, offset).write(bytes);
    data_end = end;
    staged += size;
  });
  close();
  flush();
  check_room(fd, filled);
  set_size(fresh.get(), data_end);  // zero blocks at its end are not written
  return staged;
}

void apply_content(int work, int fd, std::uint64_t size) {
  const auto fresh = base::open_at(work, "new", O_RDONLY | O_NOFOLLOW);
  base::LineReader extents(base::open_at(work, "extents", O_RDONLY | O_NOFOLLOW));
  const auto note_time = [&] {
    if (::utimensat(work, "extents", nullptr, AT_SYMLINK_NOFOLLOW) != 0) base::throw_errno("set time", errno);
  };
  base::Buffer buffer;
  for (std::string text; extents.next(text);) {
    std::string_view line = text;
    const auto kind = base::take_field(line, ' ');
    const auto offset = base::parse_decimal(base::take_field(line, ' ')), count = base::parse_decimal(line);
    if ((kind != "hole" && kind != "data") || !offset || !count)
      throw Error(Category::local, "extents: not what was staged");
    if (kind == "hole") {
      for (std::uint64_t done = 0; done < *count; done += std::min(*count - done, kHoleStep)) {
        note_time();
        punch(fd, *offset + done, std::min(*count - done, kHoleStep));
      }
      continue;
    }
    for (std::uint64_t done = 0; done < *count; done += buffer.size()) {
      buffer.resize(static_cast<std::size_t>(std::min<std::uint64_t>(*count - done, kCopySize)));
      if (!base::read_exact_at(fresh.get(), *offset + done, buffer))
        throw Error(Category::local, "new: shorter than what was staged");
      note_time();
      write_change(fd, *offset + done, buffer);
    }
  }
  note_time();
  set_size(fd, size);
}

}  // namespace wedge::internal
