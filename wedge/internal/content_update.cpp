#include "wedge/internal/content_update.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <string>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/numbers.h"
#include "formats/text/recipe.h"
#include "wedge/internal/place_file.h"

namespace wedge::internal {
namespace {

using base::Category;
using base::Error;
using Item = formats::RecipeItem;

constexpr std::size_t kCopySize = std::size_t{1} << 20;
constexpr std::size_t kMaxExtents = std::size_t{1} << 30;  ///< bytes of their list

bool is_same(const Item& a, const Item& b) {
  return a.type == b.type && a.size == b.size && a.offset == b.offset &&
         (a.type == Item::Type::hole || a.id == b.id);
}

void set_size(int fd, std::uint64_t size) {
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0) base::throw_errno("set size", errno);
}

void punch(int fd, std::uint64_t offset, std::uint64_t size) {
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(size)) != 0)
    base::throw_errno("punch a hole", errno);
}

/// Told what changes, in order; no bytes: a hole.
using OnChange = std::function<void(std::uint64_t offset, std::uint64_t size, base::Bytes bytes)>;

/// Returns the size of the new content.
std::uint64_t find_changes(vat::BlobSource& source, const ContentUpdate& update, int fd,
                           const OnChange& on_change) {
  const auto get = [&](const base::ObjectId& id) { return source.read(id); };
  formats::RecipeReader old_reader(source.read(update.before), source.object_format(), get);
  formats::RecipeReader reader(source.read(update.after), source.object_format(), get);
  base::ObjectHasher hasher(source.object_format());
  base::Buffer there;
  Item old, item;
  std::uint64_t old_offset = 0;
  bool have_old = old_reader.next(old);
  const auto still_holds = [&](std::uint64_t offset) {
    if (update.trusted) return true;
    if (item.type != Item::Type::chunk) return false;
    there.resize(static_cast<std::size_t>(item.size));
    return base::read_exact_at(fd, offset, there) && hasher.hash(there) == item.id;
  };
  for (std::uint64_t offset = 0; reader.next(item); offset += item.size) {
    while (have_old && old_offset < offset) {
      old_offset += old.size;
      have_old = old_reader.next(old);
    }
    if (have_old && old_offset == offset && is_same(old, item) && still_holds(offset)) continue;
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

/// A hole first, then what is not zero: whole zero blocks stay holes.
void write_change(int fd, std::uint64_t offset, base::Bytes bytes) {
  punch(fd, offset, bytes.size());
  ContentWriter(fd, true, offset).write(bytes);
}

}  // namespace

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
  std::uint64_t staged = 0, begin = 0, end = 0, data_end = 0;
  bool hole = false;
  std::string text;
  const auto close = [&] {
    if (begin == end) return;
    text += std::string(hole ? "hole " : "data ") + std::to_string(begin) + " " +
            std::to_string(end - begin) + "\n";
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
  set_size(fresh.get(), data_end);  // zero blocks at its end are not written
  base::write_all(extents.get(), base::as_bytes(text));
  return staged;
}

void apply_content(int work, int fd, std::uint64_t size) {
  const auto fresh = base::open_at(work, "new", O_RDONLY | O_NOFOLLOW);
  const auto text = base::read_file(work, "extents", kMaxExtents);
  base::Buffer buffer;
  for (std::string_view rest = text; !rest.empty();) {
    auto line = base::take_field(rest, '\n');
    const auto kind = base::take_field(line, ' ');
    const auto offset = base::parse_decimal(base::take_field(line, ' ')), count = base::parse_decimal(line);
    if ((kind != "hole" && kind != "data") || !offset || !count)
      throw Error(Category::local, "extents: not what was staged");
    if (kind == "hole") {
      punch(fd, *offset, *count);
      continue;
    }
    for (std::uint64_t done = 0; done < *count; done += buffer.size()) {
      buffer.resize(static_cast<std::size_t>(std::min<std::uint64_t>(*count - done, kCopySize)));
      if (!base::read_exact_at(fresh.get(), *offset + done, buffer))
        throw Error(Category::local, "new: shorter than what was staged");
      write_change(fd, *offset + done, buffer);
    }
  }
  set_size(fd, size);
}

}  // namespace wedge::internal
