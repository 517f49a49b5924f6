#include "formats/base/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace base {
namespace {

constexpr std::uint64_t kWriteback = std::uint64_t{4} << 20;
constexpr std::string_view kPrefix = ".vat-tmp-";
constexpr std::size_t kNameSize = kPrefix.size() + 32;  // and a random_name()

}  // namespace

AtomicFile::AtomicFile(int tmp_dir, unsigned mode) : tmp_dir_(tmp_dir) {
  while (true) {
    tmp_name_ = std::string(kPrefix) + random_name();
    fd_ = open_at(tmp_dir, tmp_name_, O_RDWR | O_CREAT | O_EXCL, mode);
    if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      continue;  // a cleaner was quicker
    struct stat info;
    if (::fstat(fd_.get(), &info) != 0) throw_errno("stat", errno);
    if (info.st_nlink == 0) continue;
    if (mode != 0600 && is_shared(tmp_dir)) share(fd_.get());
    return;
  }
}

AtomicFile::~AtomicFile() {
  if (!tmp_name_.empty()) (void)::unlinkat(tmp_dir_, tmp_name_.c_str(), 0);
}

void AtomicFile::write(Bytes bytes) {
  write_all(fd_.get(), bytes);
  pending_ += bytes.size();
  if (pending_ < kWriteback) return;
  begin_writeback(fd_.get());
  pending_ = 0;
}

bool AtomicFile::publish(int directory, const std::string& name, Existing existing, Durability durability) {
  if (durability == Durability::durable) sync_file(fd_.get());
  // Where a file is kept its name is its content, so that to replace an equal one is harmless.
  const bool published = existing == Existing::keep
                             ? rename_to_free_name(tmp_dir_, tmp_name_, directory, name)
                             : ::renameat(tmp_dir_, tmp_name_.c_str(), directory, name.c_str()) == 0;
  if (const int failure = errno; !published && (existing == Existing::replace || failure != EEXIST)) {
    const auto target = full_name(directory, name);
    if (failure == ENOENT && !find_stat(tmp_dir_, tmp_name_))
      throw Error(Category::local, target + ": what was written was removed before it got its name",
                  "do all machines see each other's locks on this file system? another run does the rest");
    throw_errno("rename to " + target, failure);
  }
  if (published) tmp_name_.clear();
  if (durability == Durability::durable) sync_directory(directory);
  fd_.close();
  return published;
}

void write_file_atomically(int directory, const std::string& name, Bytes content, unsigned mode,
                           AtomicFile::Durability durability) {
  AtomicFile file(directory, mode);
  file.write(content);
  (void)file.publish(directory, name, AtomicFile::Existing::replace, durability);
}

void remove_leftovers(int tmp_dir) noexcept try {
  for (const auto& name : list_directory(tmp_dir)) {
    if (name.size() != kNameSize || !name.starts_with(kPrefix)) continue;
    const auto file = find_open_at(tmp_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (file && ::flock(file->get(), LOCK_EX | LOCK_NB) == 0) (void)::unlinkat(tmp_dir, name.c_str(), 0);
  }
} catch (const std::exception&) {
  // Cleaning up is a courtesy; whoever needs the space will see the error itself.
}

}  // namespace base
