#include "wedge/stat_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <vector>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace wedge {
namespace {

using base::ObjectId;
using formats::Guard;
using formats::Statement;

constexpr std::int64_t kVersion = 3;
constexpr const char* kSchema = R"(
  CREATE TABLE xattrs(system INTEGER, inode INTEGER, ctime INTEGER, xattrs BLOB, guard INTEGER,
    PRIMARY KEY(system, inode)) WITHOUT ROWID;
  CREATE TABLE runs(run INTEGER PRIMARY KEY, stored BLOB);
  CREATE TABLE turns(device INTEGER, inode INTEGER, turn INTEGER, PRIMARY KEY(device, inode)) WITHOUT ROWID;
)";
constexpr std::size_t kPending = 65536;  ///< rows held back before they are written together
constexpr std::uint64_t kMaxRows = std::uint64_t{1} << 23;  ///< after which it begins anew: 1 GB

// A row of a table: name of the file system and inode, highest byte first so that neighbours lie together;
// size, mtime, ctime, run; flags, exponent, blob, recipe.
constexpr std::size_t kKeySize = 16, kStateSize = 32;
enum : std::uint8_t { kHasBlob = 1, kHasRecipe = 2, kSparse = 4, kHasXattrs = 8 };

formats::TableShape shape_of(base::ObjectFormat format) {
  return {format == base::ObjectFormat::sha1 ? std::array{'s', 't', 'a', 't', 's', 'h', 'a', '1'}
                                             : std::array{'s', 't', 'a', 't', 's', '2', '5', '6'},
          kKeySize, kKeySize + kStateSize + 2 + 2 * base::id_size(format)};
}

std::array<std::byte, kKeySize> bytes_of(const std::pair<std::uint64_t, std::uint64_t>& key) {
  std::array<std::byte, kKeySize> bytes;
  base::store_le(bytes.data(), __builtin_bswap64(key.first));
  base::store_le(bytes.data() + 8, __builtin_bswap64(key.second));
  return bytes;
}

constexpr std::int64_t kSecond = 1'000'000'000;  ///< in nanoseconds
constexpr std::int64_t kCoarse = 2 * kSecond;  ///< step of the times of some file systems that a user trusts

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * kSecond + time.tv_nsec;
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

std::int64_t guard_of(const std::pair<std::uint64_t, std::uint64_t>& key, std::int64_t ctime,
                      base::Bytes xattrs) {
  return Guard().add(key.first).add(key.second).add(static_cast<std::uint64_t>(ctime)).add(xattrs).value();
}

}  // namespace

FileState state_of(const struct stat& info) noexcept {
  return {info.st_dev,
          info.st_ino,
          static_cast<std::uint64_t>(info.st_size),
          nanoseconds(info.st_mtim),
          nanoseconds(info.st_ctim),
          S_ISREG(info.st_mode)};
}

/// Losing what the cache knows costs time only.
template <typename Work>
void StatCache::attempt(Work&& work) noexcept {
  if (database_ == nullptr) return;
  try {
    work();
  } catch (const base::Error& error) {
    if (error.category() == base::Category::busy) return;
    close();
    if (error.category() != base::Category::corrupt) return;
    remove();
    open();
  } catch (const std::bad_alloc&) {
    close();
  }
}

void StatCache::close() noexcept {
  reading_ = false;
  stored_.clear();
  xattrs_.reset();
  tables_.reset();
  database_.reset();
  pending_.clear();
}

void StatCache::remove() const noexcept try {
  for (const auto* suffix : {"", "-wal", "-shm"}) (void)::unlink((directory_ + ".db" + suffix).c_str());
  (void)::unlink((directory_ + "/" + formats::TableSet::kList).c_str());
} catch (const std::bad_alloc&) {  // found to be of no use by the next that opens it
}

StatCache::StatCache(const std::string& directory, base::ObjectFormat format,
                     std::vector<std::string> trusted)
    : format_(format),
      directory_(directory + "/files-" + std::string(base::to_string(format))),
      systems_(std::move(trusted)) {
  if (!directory.empty()) open();
}

void StatCache::open() noexcept {
  for (int attempt = 0; attempt < 2 && database_ == nullptr; ++attempt) {
    try {
      base::make_directories(directory_);
      database_ = std::make_unique<formats::Database>(directory_ + ".db", "stat cache", kVersion, kSchema);
      tables_ =
          std::make_unique<formats::TableSet>(shape_of(format_), base::open_directory(AT_FDCWD, directory_));
      if (tables_->count() > kMaxRows) throw base::Error(base::Category::corrupt, "stat cache: too large");
      xattrs_ = std::make_unique<Statement>(
          *database_, "SELECT ctime,xattrs,guard FROM xattrs WHERE system=? AND inode=?");
      Statement runs(*database_, "SELECT run,stored FROM runs");
      while (runs.step()) stored_[runs.integer(0)] = base::as_chars(runs.bytes(1));
      Statement fresh(*database_, "SELECT random()");
      if (fresh.step()) run_ = fresh.integer(0);
    } catch (const base::Error& error) {
      close();
      if (error.category() != base::Category::corrupt) return;
      remove();
    } catch (const std::bad_alloc&) {
      return close();
    }
  }
}

StatCache::~StatCache() {
  flush();
}

StatCache::Row StatCache::encode(const Key& key, const FileState& state, const KnownFile& known) const {
  Row row{{}, known.xattrs};
  const auto bytes = bytes_of(key);
  auto* at = std::copy(bytes.begin(), bytes.end(), row.bytes.data());
  const auto put = [&](auto value) {
    base::store_le(at, value);
    at += sizeof value;
  };
  put(state.size);
  put(state.mtime);
  put(state.ctime);
  put(run_);
  put(static_cast<std::uint8_t>((known.blob ? kHasBlob : 0) | (known.recipe ? kHasRecipe : 0) |
                                (known.sparse ? kSparse : 0) | (known.xattrs.empty() ? 0 : kHasXattrs)));
  put(static_cast<std::uint8_t>(known.exponent));
  for (const auto* id : {&known.blob, &known.recipe}) {
    if (*id) std::copy((*id)->raw().begin(), (*id)->raw().end(), at);
    at += base::id_size(format_);
  }
  return row;
}

/// nullopt if it is of another state. Lacks the attributes.
std::optional<KnownFile> StatCache::decode(base::Bytes row, const FileState& state) const {
  const auto* at = row.data() + kKeySize;
  if (base::load_le<std::uint64_t>(at) != state.size || base::load_le<std::int64_t>(at + 8) != state.mtime ||
      base::load_le<std::int64_t>(at + 16) != state.ctime)
    return std::nullopt;
  KnownFile known;
  if (const auto stored = stored_.find(base::load_le<std::int64_t>(at + 24)); stored != stored_.end())
    known.stored = stored->second;
  const auto flags = std::to_integer<unsigned>(at[kStateSize]);
  known.sparse = (flags & kSparse) != 0;
  known.exponent = std::to_integer<int>(at[kStateSize + 1]);
  const auto ids = row.subspan(kKeySize + kStateSize + 2);
  const auto size = base::id_size(format_);
  if ((flags & kHasBlob) != 0) known.blob = ObjectId(format_, ids.subspan(0, size));
  if ((flags & kHasRecipe) != 0) known.recipe = ObjectId(format_, ids.subspan(size, size));
  return known;
}

/// nullopt if nothing vouches for the file.
std::optional<StatCache::Key> StatCache::find_key(const FileState& state, const base::FileAt& where) {
  const auto& system = systems_.look_at(state.device, where);
  if (system.name == 0) return std::nullopt;
  // In whole seconds: no clock's doing, or of one that is too coarse.
  if (state.ctime % kSecond == 0 && !system.is_trusted) return std::nullopt;
  return Key{system.name, state.inode};
}

std::vector<StatCache::Unvouched> StatCache::unvouched() const {
  const std::lock_guard lock(mutex_);
  std::vector<Unvouched> all;
  for (const auto& [system, counted] : unvouched_) all.push_back(counted);
  return all;
}

std::optional<KnownFile> StatCache::find(const FileState& state, const base::FileAt& where) {
  const std::lock_guard lock(mutex_);
  if (database_ == nullptr) return std::nullopt;
  if (const auto key = find_key(state, where)) return find_known(*key, state);
  if (!state.is_file || state.size == 0) return std::nullopt;
  const auto& system = systems_.look_at(state.device, where);
  auto& counted = unvouched_.try_emplace(&system, Unvouched{system, 0, 0}).first->second;
  ++counted.files;
  counted.size += state.size;
  return std::nullopt;
}

std::optional<KnownFile> StatCache::find_known(const Key& key, const FileState& state) {
  std::optional<KnownFile> found;
  if (const auto pending = pending_.find(key); pending != pending_.end()) {
    found = decode(pending->second.bytes, state);
    if (found) found->xattrs = pending->second.xattrs;
    return found;
  }
  attempt([&] {
    bool newest = true;
    bool has_xattrs = false;
    tables_->find(bytes_of(key), [&](base::Bytes row) {
      if (!std::exchange(newest, false)) return;
      found = decode(row, state);
      has_xattrs = (std::to_integer<unsigned>(row[kKeySize + kStateSize]) & kHasXattrs) != 0;
    });
    if (!found || !has_xattrs) return;
    auto xattrs = find_xattrs(key, state);
    if (xattrs)
      found->xattrs = *std::move(xattrs);
    else
      found.reset();
  });
  return found;
}

/// nullopt if they are of another state.
std::optional<std::map<std::string, std::string>> StatCache::find_xattrs(const Key& key,
                                                                         const FileState& state) {
  if (!std::exchange(reading_, true)) database_->run("BEGIN");
  xattrs_->reset();
  xattrs_->bind(1, signed_of(key.first)).bind(2, signed_of(key.second));
  std::optional<std::map<std::string, std::string>> found;
  if (xattrs_->step() && xattrs_->integer(0) == state.ctime &&
      xattrs_->integer(2) == guard_of(key, state.ctime, xattrs_->bytes(1)))
    found = unpack_xattrs(xattrs_->bytes(1));
  xattrs_->reset();
  return found;
}

std::int64_t StatCache::now() noexcept {
  timespec time{};
  (void)::clock_gettime(CLOCK_REALTIME_COARSE, &time);
  return nanoseconds(time);
}

void StatCache::put(const FileState& state, const base::FileAt& where, const KnownFile& known,
                    std::int64_t read_since) {
  const auto last = std::max(state.mtime, state.ctime);
  const bool racy = last % kSecond == 0 ? last + kCoarse >= read_since : last >= read_since;
  const std::lock_guard lock(mutex_);
  if (database_ == nullptr || racy) return;
  const auto key = find_key(state, where);
  if (!key) return;
  pending_.reserve(kPending);
  pending_.insert_or_assign(*key, encode(*key, state, known));
  put_in_run_ = true;
  if (pending_.size() >= kPending) flush_locked();
}

void StatCache::keep_across(int fd, const std::function<void()>& change) {
  struct stat before, after;
  const bool asked = ::fstat(fd, &before) == 0;
  std::optional<KnownFile> known;
  if (asked) {
    const std::lock_guard lock(mutex_);
    const auto key = database_ != nullptr ? find_key(state_of(before), {fd}) : std::nullopt;
    if (key) known = find_known(*key, state_of(before));
  }
  change();
  if (!known || ::fstat(fd, &after) != 0) return;
  auto state = state_of(before);
  state.ctime = nanoseconds(after.st_ctim);
  // Who writes to it meanwhile changes its mtime, which is what is compared.
  if (state == state_of(after)) put(state, {fd}, *known, kUnshared);
}

void StatCache::end_reading() {
  if (std::exchange(reading_, false)) attempt([&] { database_->run("COMMIT"); });
}

void StatCache::flush_locked() {
  end_reading();
  const auto pending = std::exchange(pending_, {});
  if (pending.empty()) return;
  attempt([&] {
    std::vector<const Row*> sorted;
    sorted.reserve(pending.size());
    for (const auto& [key, row] : pending) sorted.push_back(&row);
    std::sort(sorted.begin(), sorted.end(), [](const Row* a, const Row* b) {
      return std::memcmp(a->bytes.data(), b->bytes.data(), kKeySize) < 0;
    });
    base::Buffer rows;
    rows.reserve(sorted.size() * shape_of(format_).record_size);
    for (const auto* row : sorted)
      base::append(rows, base::Bytes(row->bytes).subspan(0, shape_of(format_).record_size));
    formats::Transaction transaction(*database_);  // one process at a time
    tables_->add(rows, {}, {true, {}, {}});
    Statement insert(*database_, "INSERT OR REPLACE INTO xattrs VALUES(?,?,?,?,?)");
    for (const auto& [key, row] : pending) {
      if (row.xattrs.empty()) continue;
      const auto ctime = base::load_le<std::int64_t>(row.bytes.data() + kKeySize + 16);
      const auto xattrs = pack_xattrs(row.xattrs);
      insert.bind(1, signed_of(key.first))
          .bind(2, signed_of(key.second))
          .bind(3, ctime)
          .bind(4, xattrs)
          .bind(5, guard_of(key, ctime, xattrs))
          .run();
    }
    transaction.commit();
  });
}

void StatCache::flush() {
  const std::lock_guard lock(mutex_);
  flush_locked();
}

void StatCache::set_stored(const std::function<std::string()>& mark) {
  const std::lock_guard lock(mutex_);
  flush_locked();
  if (!std::exchange(put_in_run_, false)) return;
  const auto vat_state = mark();
  if (vat_state.empty()) return;
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
