#include "vat/internal/index.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using formats::Database;
using formats::Guard;
using formats::Statement;
using formats::Transaction;

constexpr const char* kSchema = R"(
  CREATE TABLE packs(number INTEGER PRIMARY KEY, name BLOB UNIQUE, size INTEGER, mtime INTEGER);
  CREATE TABLE damaged(id BLOB, pack INTEGER, offset INTEGER, position INTEGER,
    PRIMARY KEY(id, pack, offset, position)) WITHOUT ROWID;
  CREATE TABLE claims(content BLOB, recipe BLOB, size INTEGER, guard INTEGER, proven INTEGER,
    PRIMARY KEY(content, recipe)) WITHOUT ROWID;
  CREATE TABLE loose(id BLOB, suffix BLOB, file_size INTEGER, state INTEGER, content_size INTEGER,
    good INTEGER, guard INTEGER, PRIMARY KEY(id, suffix)) WITHOUT ROWID;
  CREATE TABLE state(value BLOB);
  INSERT INTO state VALUES(randomblob(16));
)";
constexpr std::int64_t kVersion = 4;
constexpr std::int64_t kMilestones = 1024;  ///< kept
constexpr const char* kTablesError = "index: tables";

// A row of a table: id, then the pack's number, offset and length of the group, position in it with the kind
// in the highest byte, size.
constexpr std::size_t kPlaceSize = 8 + 8 + 4 + 4 + 4;
constexpr int kKindShift = 24;
static_assert(formats::kMaxGroupBlobs <= std::size_t{1} << kKindShift);
// Beside them, for each pack: its number, name and size.
constexpr std::size_t kPackEntrySize = 8 + 32 + 8;

formats::TableShape shape_of(base::ObjectFormat format) {
  const auto size = base::id_size(format);
  return {format == base::ObjectFormat::sha1 ? std::array{'v', 'a', 't', 'p', 's', 'h', 'a', '1'}
                                             : std::array{'v', 'a', 't', 'p', 's', '2', '5', '6'},
          size, size + kPlaceSize};
}

std::optional<base::UniqueFd> open_tables(const std::string& directory) {
  if (directory.empty()) return std::nullopt;
  base::make_directories(directory);
  auto opened = base::open_directory(AT_FDCWD, directory);
  if (::faccessat(opened.get(), ".", W_OK, AT_EACCESS) != 0) base::throw_errno(directory, errno);
  return opened;
}

void append_pack(base::Buffer& to, std::int64_t number, const PackRecord& pack) {
  base::append_le(to, number);
  auto name = base::from_hex(pack.name.substr(0, 64)).value_or(base::Buffer());
  name.resize(32);
  base::append(to, name);
  base::append_le(to, pack.size);
}

template <typename Visit>
void for_each_pack(base::Bytes extra, Visit&& visit) {
  for (; extra.size() >= kPackEntrySize; extra = extra.subspan(kPackEntrySize))
    visit(base::load_le<std::int64_t>(extra.data()), extra.subspan(0, kPackEntrySize));
}

/// The value of a row.
Place parse_place(base::Bytes value) {
  Place place;
  place.pack = base::load_le<std::int64_t>(value.data());
  place.group = {base::load_le<std::uint64_t>(value.data() + 8),
                 base::load_le<std::uint32_t>(value.data() + 16)};
  const auto position = base::load_le<std::uint32_t>(value.data() + 20);
  place.position = position & ((1U << kKindShift) - 1);
  place.kind = static_cast<formats::BlobKind>((position >> kKindShift) % formats::kBlobKinds);
  place.size = base::load_le<std::uint32_t>(value.data() + 24);
  return place;
}

std::int64_t guard_of(const Claim& claim) {
  return Guard()
      .add(claim.content.raw())
      .add(claim.recipe.raw())
      .add(claim.size)
      .add(claim.proven ? 1 : 0)
      .value();
}

/// A row of content, recipe, size, guard, proven. Throws corrupt if its guard says that it has changed.
Claim read_claim(const Statement& row, base::ObjectFormat format) {
  const auto size = base::id_size(format);
  if (row.bytes(0).size() == size && row.bytes(1).size() == size) {
    Claim claim{ObjectId(format, row.bytes(0)), ObjectId(format, row.bytes(1)),
                static_cast<std::uint64_t>(row.integer(2)), row.integer(4) != 0};
    if (row.integer(3) == guard_of(claim)) return claim;
  }
  throw Error(Category::corrupt, "index: a claim has changed");
}

std::int64_t guard_of(const ObjectId& id, const LooseRecord& record) {
  return Guard()
      .add(id.raw())
      .add(base::as_bytes(record.suffix))
      .add(record.file_size)
      .add(static_cast<std::uint64_t>(record.state))
      .add(record.content_size)
      .add(record.good ? 1 : 0)
      .value();
}

void put(Database& database, const std::vector<Claim>& claims) {
  Statement statement(database,
                      "INSERT INTO claims VALUES(?,?,?,?,?) ON CONFLICT DO UPDATE SET size=excluded.size, "
                      "guard=excluded.guard, proven=excluded.proven WHERE excluded.proven >= proven");
  for (const auto& claim : claims)
    statement.bind(1, claim.content.raw())
        .bind(2, claim.recipe.raw())
        .bind(3, static_cast<std::int64_t>(claim.size))
        .bind(4, guard_of(claim))
        .bind(5, claim.proven ? 1 : 0)
        .run();
}

}  // namespace

std::vector<IndexedPack> read_index_table(base::ObjectFormat format, base::Bytes file) {
  formats::TableBlocks blocks;
  formats::Table table(
      shape_of(format),
      [&](std::uint64_t offset, base::MutableBytes buffer) {
        if (offset > file.size() || buffer.size() > file.size() - offset) return false;
        std::copy_n(file.begin() + static_cast<std::ptrdiff_t>(offset), buffer.size(), buffer.begin());
        return true;
      },
      file.size(), blocks);
  std::vector<IndexedPack> packs;
  std::map<std::int64_t, std::size_t> numbers;
  for_each_pack(table.extra(), [&](std::int64_t number, base::Bytes entry) {
    if (!numbers.emplace(number, packs.size()).second) return;
    packs.push_back(
        {{0, base::to_hex(entry.subspan(8, 32)) + ".zst", base::load_le<std::uint64_t>(entry.data() + 40), 0},
         {},
         {}});
  });
  const auto id_size = base::id_size(format);
  for (std::uint64_t i = 0; i < table.count(); ++i) {
    const auto row = table.record(i);
    const auto place = parse_place(row.subspan(id_size));
    const auto known = numbers.find(place.pack);
    if (known == numbers.end()) continue;  // of a pack that is gone
    packs[known->second].blobs.push_back({ObjectId(format, row.subspan(0, id_size)), place});
  }
  return packs;
}

bool Index::is_of_tables(const base::Error& error) {
  return std::string_view(error.what()).starts_with(kTablesError);
}

void IndexLocation::remove() const noexcept {
  if (!database.empty())
    for (const auto* suffix : {"", "-wal", "-shm"}) (void)::unlink((database + suffix).c_str());
  remove_tables();
}

void IndexLocation::remove_tables() const noexcept {
  if (!tables.empty()) (void)::unlink((tables + "/" + formats::TableSet::kList).c_str());
}

Index::Index(const IndexLocation& location, base::ObjectFormat format)
    : format_(format),
      database_(location.database.empty() ? ":memory:" : location.database, "index",
                kVersion * 256 + static_cast<int>(format), kSchema),
      tables_(shape_of(format), open_tables(location.tables)) {
  version_ = std::make_unique<Statement>(database_, "PRAGMA data_version");
  Statement mode(database_, "PRAGMA journal_mode");
  others_can_write_ = mode.step() && base::as_chars(mode.bytes(0)) == "wal";
  const std::lock_guard lock(mutex_);
  follow_locked();
}

/// Takes note of what other processes changed.
void Index::follow_locked() const {
  if (reading_) return;
  const bool known = version_->step();
  const std::int64_t version = known ? version_->integer(0) : 0;
  version_->reset();
  if (version == seen_) return;
  load_locked();
  seen_ = version;
}

void Index::load_locked() const {
  packs_.clear();
  listed_.clear();
  damaged_.clear();
  Statement packs(database_, "SELECT number,name,size,mtime FROM packs");
  while (packs.step())
    packs_[packs.integer(0)] = {packs.integer(0), std::string(base::as_chars(packs.bytes(1))),
                                static_cast<std::uint64_t>(packs.integer(2)), packs.integer(3)};
  Statement damaged(database_, "SELECT id,pack,offset,position FROM damaged");
  while (damaged.step())
    if (damaged.bytes(0).size() == base::id_size(format_))
      damaged_.emplace(ObjectId(format_, damaged.bytes(0)), damaged.integer(1), damaged.integer(2),
                       static_cast<std::uint32_t>(damaged.integer(3)));
  base::named(kTablesError, [&] { tables_.load(); });
  for (const auto extra : tables_.extras())
    for_each_pack(extra, [&](std::int64_t number, base::Bytes) { listed_.insert(number); });
}

std::vector<PackRecord> Index::packs() const {
  const std::lock_guard lock(mutex_);
  follow_locked();
  std::vector<PackRecord> records;
  for (const auto& [number, pack] : packs_) {
    records.push_back(pack);
    if (!listed_.contains(number)) records.back().size = 0;
  }
  return records;
}

std::optional<std::string> Index::find_pack_name(std::int64_t number) const {
  const std::lock_guard lock(mutex_);
  follow_locked();
  const auto known = packs_.find(number);
  return known != packs_.end() ? std::optional(known->second.name) : std::nullopt;
}

/// nullopt if the pack is gone.
std::optional<Place> Index::read_place(base::Bytes row) const {
  auto place = parse_place(row.subspan(base::id_size(format_)));
  if (!packs_.contains(place.pack)) return std::nullopt;
  place.damaged =
      !damaged_.empty() && damaged_.contains({ObjectId(format_, row.subspan(0, base::id_size(format_))),
                                              place.pack, place.group.offset, place.position});
  return place;
}

/// The number a pack gets: one never used, in no index of this vat, because open files, decoded groups and
/// rows of tables are kept by it.
std::int64_t Index::renumber_locked(const PackRecord& pack, Damage damage) {
  const std::int64_t before = number_locked(pack.name);
  if (const auto known = packs_.find(before); damage == Damage::same && known != packs_.end() &&
                                              known->second.size == pack.size &&
                                              known->second.mtime == pack.mtime)
    return before;
  Statement fresh(database_, "SELECT random() & 0xffffffffffff");
  (void)fresh.step();
  const std::int64_t number = fresh.integer(0);
  if (before >= 0 && damage != Damage::forget) {
    Statement(database_,
              "UPDATE damaged SET pack=? WHERE pack=(SELECT number FROM packs WHERE number=? AND size=? AND "
              "mtime=?)")
        .bind(1, number)
        .bind(2, before)
        .bind(3, static_cast<std::int64_t>(pack.size))
        .bind(4, pack.mtime)
        .run();
  }
  if (before >= 0) forget_pack_locked(before);
  Statement(database_, "INSERT INTO packs(number,name,size,mtime) VALUES(?,?,?,?)")
      .bind(1, number)
      .bind(2, base::as_bytes(pack.name))
      .bind(3, static_cast<std::int64_t>(pack.size))
      .bind(4, pack.mtime)
      .run();
  packs_[number] = {number, pack.name, pack.size, pack.mtime};
  return number;
}

void Index::put_packs(const std::vector<IndexedPack>& packs, Damage damage) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Transaction transaction(database_);
  try {
    load_locked();
    base::Buffer extra;
    std::vector<std::pair<const IndexedBlob*, std::int64_t>> sorted;
    for (const auto& pack : packs) {
      const std::int64_t number = renumber_locked(pack.record, damage);
      append_pack(extra, number, pack.record);
      for (const auto& blob : pack.blobs) sorted.emplace_back(&blob, number);
      put(database_, pack.claims);
    }
    std::sort(sorted.begin(), sorted.end(),
              [](const auto& a, const auto& b) { return a.first->id < b.first->id; });
    base::Buffer rows;
    rows.reserve(sorted.size() * (base::id_size(format_) + kPlaceSize));
    for (const auto& [blob, number] : sorted) {
      base::append(rows, blob->id.raw());
      base::append_le(rows, number);
      base::append_le(rows, blob->place.group.offset);
      base::append_le(rows, blob->place.group.size);
      base::append_le(rows, blob->place.position | static_cast<std::uint32_t>(blob->place.kind)
                                                       << kKindShift);
      base::append_le(rows, blob->place.size);
    }
    const auto id_end = base::id_size(format_);
    base::named(kTablesError, [&] {
      tables_.add(
          rows, extra,
          {false,
           [&](base::Bytes row) { return packs_.contains(base::load_le<std::int64_t>(row.data() + id_end)); },
           [&](base::Bytes extras) {
             base::Buffer live;
             for_each_pack(extras, [&](std::int64_t number, base::Bytes entry) {
               if (packs_.contains(number)) base::append(live, entry);
             });
             return live;
           }});
    });
    transaction.commit();
  } catch (...) {
    seen_ = -1;  // what is known of packs is ahead of the database
    throw;
  }
  load_locked();
}

void Index::begin_reading() {
  const std::lock_guard lock(mutex_);
  if (reading_ || !others_can_write_) return;
  database_.run("BEGIN");
  follow_locked();
  reading_ = true;
}

void Index::end_reading() {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
}

void Index::end_reading_locked() {
  if (std::exchange(reading_, false)) database_.run("COMMIT");
}

void Index::forget_pack(const std::string& name) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Transaction transaction(database_);
  if (const auto number = number_locked(name); number >= 0) forget_pack_locked(number);
  transaction.commit();
}

/// -1: none.
std::int64_t Index::number_locked(const std::string& name) const {
  Statement statement(database_, "SELECT number FROM packs WHERE name=?");
  statement.bind(1, base::as_bytes(name));
  return statement.step() ? statement.integer(0) : -1;
}

void Index::forget_pack_locked(std::int64_t number) {
  Statement(database_, "DELETE FROM damaged WHERE pack=?").bind(1, number).run();
  Statement(database_, "DELETE FROM packs WHERE number=?").bind(1, number).run();
  packs_.erase(number);
  renew_state_locked();
}

Index::State Index::state() const {
  const std::lock_guard lock(mutex_);
  State state;
  Statement statement(database_, "SELECT value FROM state ORDER BY rowid");
  while (statement.step()) {
    std::string value(base::as_chars(statement.bytes(0)));
    if (state.epoch.empty())
      state.epoch = std::move(value);
    else
      state.milestones.insert(std::move(value));
  }
  return state;
}

std::string Index::add_milestone(const std::string& epoch) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Transaction transaction(database_);
  Statement first(database_, "SELECT value FROM state ORDER BY rowid LIMIT 1");
  if (!first.step() || base::as_chars(first.bytes(0)) != epoch) return {};
  first.reset();
  database_.run("INSERT INTO state VALUES(randomblob(16))");
  Statement last(database_, "SELECT value FROM state ORDER BY rowid DESC LIMIT 1");
  std::string milestone;
  if (last.step()) milestone = base::as_chars(last.bytes(0));
  last.reset();
  Statement(database_,
            "DELETE FROM state WHERE rowid>(SELECT min(rowid) FROM state) AND "
            "rowid<=(SELECT max(rowid) FROM state)-?")
      .bind(1, kMilestones)
      .run();
  transaction.commit();
  return milestone;
}

void Index::renew_state_locked() {
  database_.run("DELETE FROM state; INSERT INTO state VALUES(randomblob(16))");
}

std::vector<Place> Index::find(const ObjectId& id) const {
  const std::lock_guard lock(mutex_);
  follow_locked();
  std::vector<Place> places;
  base::named(kTablesError, [&] {
    tables_.find(id.raw(), [&](base::Bytes row) {
      if (const auto place = read_place(row)) places.push_back(*place);
    });
  });
  std::stable_partition(places.begin(), places.end(), [](const Place& place) { return !place.damaged; });
  return places;
}

void Index::mark_damaged(const ObjectId& id, const Place& place) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Transaction transaction(database_);
  Statement(database_, "INSERT OR IGNORE INTO damaged SELECT ?,number,?,? FROM packs WHERE number=?")
      .bind(1, id.raw())
      .bind(2, static_cast<std::int64_t>(place.group.offset))
      .bind(3, place.position)
      .bind(4, place.pack)
      .run();
  Statement changed(database_, "SELECT changes()");
  if (changed.step() && changed.integer(0) > 0) renew_state_locked();
  changed.reset();
  transaction.commit();
  damaged_.emplace(id, place.pack, place.group.offset, place.position);
}

void Index::mark_sound(const std::string& pack) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Statement(database_, "DELETE FROM damaged WHERE pack=(SELECT number FROM packs WHERE name=?)")
      .bind(1, base::as_bytes(pack))
      .run();
  seen_ = -1;
}

std::vector<Claim> Index::find_claims(const ObjectId& content) const {
  const std::lock_guard lock(mutex_);
  std::vector<Claim> claims;
  Statement statement(
      database_, "SELECT content,recipe,size,guard,proven FROM claims WHERE content=? ORDER BY proven DESC");
  statement.bind(1, content.raw());
  while (statement.step()) claims.push_back(read_claim(statement, format_));
  return claims;
}

void Index::check_claims() const {
  const std::lock_guard lock(mutex_);
  Statement statement(database_, "SELECT content,recipe,size,guard,proven FROM claims");
  while (statement.step()) (void)read_claim(statement, format_);
}

void Index::put_claims(const std::vector<Claim>& claims) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Transaction transaction(database_);
  put(database_, claims);
  transaction.commit();
}

std::optional<LooseRecord> Index::find_loose(const ObjectId& id, const std::string& suffix) const {
  const std::lock_guard lock(mutex_);
  Statement statement(database_,
                      "SELECT file_size,state,content_size,good,guard FROM loose WHERE id=? AND suffix=?");
  statement.bind(1, id.raw()).bind(2, base::as_bytes(suffix));
  if (!statement.step()) return std::nullopt;
  const LooseRecord record{suffix, static_cast<std::uint64_t>(statement.integer(0)), statement.integer(1),
                           static_cast<std::uint64_t>(statement.integer(2)), statement.integer(3) != 0};
  if (statement.integer(4) != guard_of(id, record)) return std::nullopt;
  return record;
}

void Index::put_loose(const ObjectId& id, const LooseRecord& record) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Statement(database_, "INSERT OR REPLACE INTO loose VALUES(?,?,?,?,?,?,?)")
      .bind(1, id.raw())
      .bind(2, base::as_bytes(record.suffix))
      .bind(3, static_cast<std::int64_t>(record.file_size))
      .bind(4, record.state)
      .bind(5, static_cast<std::int64_t>(record.content_size))
      .bind(6, record.good ? 1 : 0)
      .bind(7, guard_of(id, record))
      .run();
}

std::vector<IndexedBlob> Index::list_after(const ObjectId* after, std::size_t limit) const {
  const std::lock_guard lock(mutex_);
  follow_locked();
  std::vector<IndexedBlob> blobs;
  const base::Buffer first(base::id_size(format_));
  base::named(kTablesError, [&] {
    tables_.visit_from(after != nullptr ? after->raw() : first, [&](base::Bytes row) {
      const ObjectId id(format_, row.subspan(0, base::id_size(format_)));
      const auto place = read_place(row);
      if (!place || (after != nullptr && id == *after)) return true;
      if (blobs.empty() || blobs.back().id != id) {
        if (blobs.size() == limit) return false;
        blobs.push_back({id, *place});
      } else if (blobs.back().place.damaged) {
        blobs.back().place = *place;
      }
      return true;
    });
  });
  return blobs;
}

std::vector<Claim> Index::list_claims_after(const ObjectId* after, std::size_t limit) const {
  const std::lock_guard lock(mutex_);
  std::vector<Claim> claims;
  Statement statement(
      database_,
      "SELECT content,recipe,size,guard,proven FROM claims WHERE content>? ORDER BY content,proven DESC");
  statement.bind(1, after != nullptr ? after->raw() : base::Bytes());
  while (claims.size() < limit && statement.step()) {
    const auto claim = read_claim(statement, format_);
    if (claims.empty() || claims.back().content != claim.content) claims.push_back(claim);
  }
  return claims;
}

}  // namespace vat::internal
