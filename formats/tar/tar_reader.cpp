#include "formats/tar/tar_reader.h"

#include <archive.h>
#include <archive_entry.h>

#include <cerrno>
#include <exception>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/tar/pax_filter.h"

namespace formats {
namespace {

using base::Category;
using base::Error;
using Type = TarMember::Type;

constexpr std::size_t kReadSize = std::size_t{64} << 10;

Type type_of(archive_entry* entry) {
  if (archive_entry_hardlink(entry) != nullptr) return Type::hard_link;
  switch (archive_entry_filetype(entry)) {
    case AE_IFDIR:
      return Type::directory;
    case AE_IFREG:
      return Type::file;
    case AE_IFLNK:
      return Type::symlink;
    case AE_IFCHR:
      return Type::character_device;
    case AE_IFBLK:
      return Type::block_device;
    case AE_IFIFO:
      return Type::fifo;
    default:
      return Type::socket;
  }
}

std::string text(const char* value) {
  return value != nullptr ? value : "";
}

}  // namespace

struct TarReader::State {
  base::CPtr<archive, archive_read_free> handle;
  ByteSource source;
  base::Buffer buffer = base::Buffer(kReadSize);
  std::exception_ptr failure;  ///< what the source threw inside libarchive

  [[noreturn]] void fail() {
    if (failure) std::rethrow_exception(failure);
    const char* why = archive_error_string(handle.get());
    throw Error(Category::refused, "tar: " + text(why != nullptr ? why : "malformed"));
  }
  static la_ssize_t pull(archive*, void* self, const void** bytes) {
    auto& state = *static_cast<State*>(self);
    try {
      const std::size_t count = state.source(state.buffer);
      *bytes = state.buffer.data();
      return static_cast<la_ssize_t>(count);
    } catch (...) {
      state.failure = std::current_exception();
      return ARCHIVE_FATAL;
    }
  }
};

TarReader::TarReader(ByteSource source) : state_(std::make_unique<State>()) {
  state_->source = PaxFilter(std::move(source));
  state_->handle.reset(archive_read_new());
  auto* handle = state_->handle.get();
  if (handle == nullptr) throw Error(Category::local, "tar: out of memory");
  // Archives are decompressed before they come here; a filter of libarchive's own could be handed a bomb.
  if (archive_read_support_format_tar(handle) != ARCHIVE_OK ||
      archive_read_open(handle, state_.get(), nullptr, State::pull, nullptr) != ARCHIVE_OK)
    state_->fail();
}
TarReader::~TarReader() = default;

bool TarReader::next(TarMember& member) {
  auto* handle = state_->handle.get();
  archive_entry* entry = nullptr;
  const int code = archive_read_next_header(handle, &entry);
  if (code == ARCHIVE_EOF) return false;
  if (code != ARCHIVE_OK && code != ARCHIVE_WARN) state_->fail();
  member = {};
  member.type = type_of(entry);
  member.path = text(archive_entry_pathname(entry));
  member.target = member.type == Type::hard_link ? text(archive_entry_hardlink(entry))
                                                 : text(archive_entry_symlink(entry));
  member.mode = archive_entry_perm(entry) & 07777;
  member.uid = static_cast<std::uint32_t>(archive_entry_uid(entry));
  member.gid = static_cast<std::uint32_t>(archive_entry_gid(entry));
  member.mtime = archive_entry_mtime(entry);
  member.mtime_nanoseconds = static_cast<std::uint32_t>(archive_entry_mtime_nsec(entry));
  if (member.mtime < 0 && member.mtime_nanoseconds > 0) {
    // libarchive reads -1.5 as -1 and +0.5; only pax records carry a fraction.
    --member.mtime;
    member.mtime_nanoseconds = 1'000'000'000 - member.mtime_nanoseconds;
  }
  member.size = member.type == Type::file && archive_entry_size(entry) > 0
                    ? static_cast<std::uint64_t>(archive_entry_size(entry))
                    : 0;
  member.device_major = static_cast<std::uint32_t>(archive_entry_rdevmajor(entry));
  member.device_minor = static_cast<std::uint32_t>(archive_entry_rdevminor(entry));
  constexpr int kAcls =
      ARCHIVE_ENTRY_ACL_TYPE_ACCESS | ARCHIVE_ENTRY_ACL_TYPE_DEFAULT | ARCHIVE_ENTRY_ACL_TYPE_NFS4;
  member.has_acl = (archive_entry_acl_types(entry) & kAcls) != 0;
  if (member.path.empty()) throw Error(Category::refused, "tar: a member without a name");
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  (void)archive_entry_xattr_reset(entry);
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
    if (name != nullptr) member.xattrs[name] = std::string(static_cast<const char*>(value), size);
  if (member.xattrs.erase(PaxFilter::kBeforeEpoch) > 0 && member.mtime == 0 && member.mtime_nanoseconds > 0) {
    member.mtime = -1;
    member.mtime_nanoseconds = 1'000'000'000 - member.mtime_nanoseconds;
  }
  return true;
}

std::optional<TarReader::Part> TarReader::next_part() {
  const void* bytes = nullptr;
  std::size_t size = 0;
  la_int64_t offset = 0;
  const int code = archive_read_data_block(state_->handle.get(), &bytes, &size, &offset);
  if (code == ARCHIVE_EOF) return std::nullopt;
  if (code != ARCHIVE_OK && code != ARCHIVE_WARN) state_->fail();
  if (offset < 0) throw Error(Category::refused, "tar: malformed");
  return Part{static_cast<std::uint64_t>(offset), {static_cast<const std::byte*>(bytes), size}};
}

}  // namespace formats
