#include "wedge/stat_cache.h"

#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace wedge {
namespace {

using base::ObjectId;
using formats::Guard;
using formats::Statement;

constexpr std::int64_t kVersion = 1;
constexpr const char* kSchema = R"(
  CREATE TABLE files(device INTEGER, inode INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, blob BLOB, recipe BLOB,
    exponent INTEGER, sparse INTEGER, xattrs BLOB, run INTEGER, guard INTEGER, PRIMARY KEY(device, inode)) WITHOUT ROWID;
  CREATE TABLE runs(run INTEGER PRIMARY KEY, stored BLOB);
  CREATE TABLE turns(device INTEGER, inode INTEGER, turn INTEGER, PRIMARY KEY(device, inode)) WITHOUT ROWID;
)";
constexpr std::size_t kPending = 4096;  ///< rows held back before they are written together
constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 30;  ///< bytes after which it begins anew
constexpr std::int64_t kCoarse =
    std::int64_t{2} * 1'000'000'000;  ///< step of times without nanoseconds, on FAT

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

base::Buffer pack_xattrs(const std::map<std::string, std::string>& xattrs) {
  base::Buffer bytes;
  for (const auto& [name, value] : xattrs) {
    for (const auto* text : {&name, &value}) {
      base::append_varint(bytes, text->size());
      base::append(bytes, base::as_bytes(*text));
    }
  }
  return bytes;
}

std::map<std::string, std::string> unpack_xattrs(base::Bytes bytes) {
  std::map<std::string, std::string> xattrs;
  const auto take = [&] {
    const auto size = std::min<std::uint64_t>(base::take_varint(bytes).value_or(0), bytes.size());
    const std::string text(base::as_chars(bytes.subspan(0, size)));
    bytes = bytes.subspan(size);
    return text;
  };
  while (!bytes.empty()) {
    auto name = take();
    if (name.empty()) break;
    xattrs.emplace(std::move(name), take());
  }
  return xattrs;
}

std::int64_t signed_of(std::uint64_t value) {
  return static_cast<std::int64_t>(value);
}

base::Bytes raw_or_nothing(const std::optional<ObjectId>& id) {
  return id ? id->raw() : base::Bytes();
}

std::int64_t guard_of(const FileState& state, const KnownFile& known, base::Bytes xattrs, std::int64_t run) {
  return Guard()
      .add(state.device)
      .add(state.inode)
      .add(state.size)
      .add(static_cast<std::uint64_t>(state.mtime))
      .add(static_cast<std::uint64_t>(state.ctime))
      .add(raw_or_nothing(known.blob))
      .add(raw_or_nothing(known.recipe))
      .add(static_cast<std::uint64_t>(known.exponent) << 1 | (known.sparse ? 1 : 0))
      .add(xattrs)
      .add(static_cast<std::uint64_t>(run))
      .value();
}

}  // namespace

FileState state_of(const struct stat& info) noexcept {
  return {info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size), nanoseconds(info.st_mtim),
          nanoseconds(info.st_ctim)};
}

/// Losing what the cache knows costs time only.
template <typename Work>
void StatCache::attempt(Work&& work) noexcept {
  if (database_ == nullptr) return;
  try {
    work();
  } catch (const base::Error& error) {
    if (error.category() == base::Category::busy) return;
    find_.reset();
    database_.reset();
    pending_.clear();
  }
}

StatCache::StatCache(const std::string& directory, base::ObjectFormat format) : format_(format) {
  if (directory.empty()) return;
  const auto file = directory + "/files-" + std::string(base::to_string(format)) + ".db";
  const auto remove = [&] {
    for (const auto* suffix : {"", "-wal", "-shm"}) (void)::unlink((file + suffix).c_str());
  };
  for (int attempt = 0; attempt < 2 && database_ == nullptr; ++attempt) {
    try {
      base::make_directories(directory);
      struct stat info;
      if (::stat(file.c_str(), &info) == 0 && static_cast<std::uint64_t>(info.st_size) > kMaxSize) remove();
      database_ = std::make_unique<formats::Database>(file, "stat cache", kVersion, kSchema);
      find_ =
          std::make_unique<Statement>(*database_,
                                      "SELECT size,mtime,ctime,blob,recipe,exponent,sparse,xattrs,run,guard "
                                      "FROM files WHERE device=? AND inode=?");
      Statement runs(*database_, "SELECT run,stored FROM runs");
      while (runs.step()) stored_[runs.integer(0)] = base::as_chars(runs.bytes(1));
      Statement fresh(*database_, "SELECT random()");
      if (fresh.step()) run_ = fresh.integer(0);
    } catch (const base::Error& error) {
      find_.reset();
      database_.reset();
      if (error.category() != base::Category::corrupt) return;
      remove();
    }
  }
}

StatCache::~StatCache() {
  flush();
}

std::optional<KnownFile> StatCache::find(const FileState& state) {
  const std::lock_guard lock(mutex_);
  const auto pending = pending_.find({state.device, state.inode});
  if (pending == pending_.end()) return find_stored(state);
  return pending->second.first == state ? std::optional(pending->second.second) : std::nullopt;
}

std::optional<KnownFile> StatCache::find_stored(const FileState& state) {
  std::optional<KnownFile> found;
  attempt([&] {
    if (!std::exchange(reading_, true)) database_->run("BEGIN");
    find_->reset();
    find_->bind(1, signed_of(state.device)).bind(2, signed_of(state.inode));
    if (!find_->step()) return find_->reset();
    const FileState there{state.device, state.inode, static_cast<std::uint64_t>(find_->integer(0)),
                          find_->integer(1), find_->integer(2)};
    const auto blob = find_->bytes(3), recipe = find_->bytes(4);
    const auto size = base::id_size(format_);
    if (there != state || (!blob.empty() && blob.size() != size) ||
        (!recipe.empty() && recipe.size() != size))
      return find_->reset();
    KnownFile known;
    if (!blob.empty()) known.blob = ObjectId(format_, blob);
    if (!recipe.empty()) known.recipe = ObjectId(format_, recipe);
    known.exponent = static_cast<int>(find_->integer(5));
    known.sparse = find_->integer(6) != 0;
    const auto run = find_->integer(8);
    if (find_->integer(9) == guard_of(state, known, find_->bytes(7), run)) {
      known.xattrs = unpack_xattrs(find_->bytes(7));
      if (const auto stored = stored_.find(run); stored != stored_.end()) known.stored = stored->second;
      found = std::move(known);
    }
    find_->reset();
  });
  return found;
}

std::int64_t StatCache::now() noexcept {
  timespec time{};
  (void)::clock_gettime(CLOCK_REALTIME_COARSE, &time);
  return nanoseconds(time);
}

void StatCache::put(const FileState& state, const KnownFile& known, std::int64_t read_since) {
  const auto last = std::max(state.mtime, state.ctime);
  const bool racy = last % 1'000'000'000 == 0 ? last + kCoarse >= read_since : last >= read_since;
  const std::lock_guard lock(mutex_);
  if (database_ == nullptr || racy) return;
  pending_.insert_or_assign({state.device, state.inode}, std::pair(state, known));
  put_in_run_ = true;
  if (pending_.size() >= kPending) flush_locked();
}

void StatCache::keep_across(int fd, const std::function<void()>& change) {
  struct stat before, after;
  const bool asked = ::fstat(fd, &before) == 0;
  const auto known = asked ? find(state_of(before)) : std::nullopt;
  change();
  if (!known || ::fstat(fd, &after) != 0) return;
  auto state = state_of(before);
  state.ctime = nanoseconds(after.st_ctim);
  // Who writes to it meanwhile changes its mtime, which is what is compared.
  if (state == state_of(after)) put(state, *known, kUnshared);
}

void StatCache::end_reading() {
  if (std::exchange(reading_, false)) attempt([&] { database_->run("COMMIT"); });
}

void StatCache::flush_locked() {
  end_reading();
  const auto rows = std::exchange(pending_, {});
  if (rows.empty()) return;
  attempt([&] {
    formats::Transaction transaction(*database_);
    Statement insert(*database_, "INSERT OR REPLACE INTO files VALUES(?,?,?,?,?,?,?,?,?,?,?,?)");
    for (const auto& [key, row] : rows) {
      const auto& [state, known] = row;
      const auto xattrs = pack_xattrs(known.xattrs);
      insert.bind(1, signed_of(state.device))
          .bind(2, signed_of(state.inode))
          .bind(3, signed_of(state.size))
          .bind(4, state.mtime)
          .bind(5, state.ctime)
          .bind(6, raw_or_nothing(known.blob))
          .bind(7, raw_or_nothing(known.recipe))
          .bind(8, known.exponent)
          .bind(9, known.sparse ? 1 : 0)
          .bind(10, xattrs)
          .bind(11, run_)
          .bind(12, guard_of(state, known, xattrs, run_))
          .run();
    }
    transaction.commit();
  });
}

void StatCache::flush() {
  const std::lock_guard lock(mutex_);
  flush_locked();
}

void StatCache::set_stored(const std::string& vat_state) {
  const std::lock_guard lock(mutex_);
  flush_locked();
  if (!std::exchange(put_in_run_, false)) return;
  attempt([&] {
    Statement(*database_, "INSERT OR REPLACE INTO runs VALUES(?,?)")
        .bind(1, run_)
        .bind(2, base::as_bytes(vat_state))
        .run();
    stored_[run_] = vat_state;
    Statement fresh(*database_, "SELECT random()");
    if (fresh.step()) run_ = fresh.integer(0);
  });
}

std::uint64_t StatCache::next_turn(const FileState& root) {
  const std::lock_guard lock(mutex_);
  end_reading();
  std::uint64_t turn = 0;
  attempt([&] {
    Statement(*database_, "INSERT INTO turns VALUES(?,?,0) ON CONFLICT DO UPDATE SET turn=turn+1")
        .bind(1, signed_of(root.device))
        .bind(2, signed_of(root.inode))
        .run();
    Statement read(*database_, "SELECT turn FROM turns WHERE device=? AND inode=?");
    read.bind(1, signed_of(root.device)).bind(2, signed_of(root.inode));
    if (read.step()) turn = static_cast<std::uint64_t>(read.integer(0));
  });
  return turn;
}

bool SpotCheck::is_due(const FileState& state) const noexcept {
  if (cycle_ == 0) return false;
  const auto mixed = static_cast<std::uint64_t>(Guard().add(state.device).add(state.inode).value());
  return mixed % cycle_ == turn_;
}

}  // namespace wedge
