#include "vat/internal/index.h"

#include <algorithm>
#include <utility>

#include "formats/base/error.h"

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
  CREATE TABLE places(id BLOB, pack INTEGER, offset INTEGER, length INTEGER, position INTEGER,
    size INTEGER, kind INTEGER, guard INTEGER, damaged INTEGER DEFAULT 0,
    PRIMARY KEY(id, pack, offset, position)) WITHOUT ROWID;
  CREATE TABLE claims(content BLOB, recipe BLOB, size INTEGER, guard INTEGER, proven INTEGER,
    PRIMARY KEY(content, recipe)) WITHOUT ROWID;
  CREATE TABLE loose(id BLOB, suffix BLOB, file_size INTEGER, mtime INTEGER, content_size INTEGER,
    good INTEGER, guard INTEGER, PRIMARY KEY(id, suffix)) WITHOUT ROWID;
  CREATE TABLE state(value BLOB);
  INSERT INTO state VALUES(randomblob(16));
)";
constexpr std::int64_t kVersion = 2;

std::int64_t guard_of(const Claim& claim) {
  return Guard()
      .add(claim.content.raw())
      .add(claim.recipe.raw())
      .add(claim.size)
      .add(claim.proven ? 1 : 0)
      .value();
}

std::int64_t guard_of(const ObjectId& id, const LooseRecord& record) {
  return Guard()
      .add(id.raw())
      .add(base::as_bytes(record.suffix))
      .add(record.file_size)
      .add(static_cast<std::uint64_t>(record.mtime))
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

Place read_place(const Statement& row, int from) {
  Place place;
  place.pack = row.integer(from);
  place.group = {static_cast<std::uint64_t>(row.integer(from + 1)),
                 static_cast<std::uint32_t>(row.integer(from + 2))};
  place.position = static_cast<std::uint32_t>(row.integer(from + 3));
  place.size = static_cast<std::uint32_t>(row.integer(from + 4));
  place.kind = static_cast<formats::BlobKind>(row.integer(from + 5) % static_cast<int>(formats::kBlobKinds));
  place.damaged = row.integer(from + 7) != 0;
  return place;
}

}  // namespace

Index::Index(const std::string& path, base::ObjectFormat format)
    : format_(format), database_(path, "index", kVersion * 256 + static_cast<int>(format), kSchema) {
  find_ = std::make_unique<Statement>(
      database_,
      "SELECT pack,offset,length,position,size,kind,guard,damaged FROM places WHERE id=? ORDER BY damaged");
  Statement mode(database_, "PRAGMA journal_mode");
  others_can_write_ = mode.step() && base::as_chars(mode.bytes(0)) == "wal";
}

std::vector<PackRecord> Index::packs() const {
  const std::lock_guard lock(mutex_);
  std::vector<PackRecord> records;
  Statement statement(database_, "SELECT number,name,size,mtime FROM packs ORDER BY number");
  while (statement.step()) {
    records.push_back({statement.integer(0), std::string(base::as_chars(statement.bytes(1))),
                       static_cast<std::uint64_t>(statement.integer(2)), statement.integer(3)});
    names_[records.back().number] = records.back().name;
  }
  return records;
}

std::optional<std::string> Index::find_pack_name(std::int64_t number) const {
  const std::lock_guard lock(mutex_);
  if (const auto known = names_.find(number); known != names_.end()) return known->second;
  Statement statement(database_, "SELECT name FROM packs WHERE number=?");
  statement.bind(1, number);
  if (!statement.step()) return std::nullopt;
  return names_[number] = std::string(base::as_chars(statement.bytes(0)));
}

std::int64_t Index::guard(const ObjectId& id, const Place& place) const {
  auto known = names_.find(place.pack);
  if (known == names_.end()) {  // another process added a pack
    Statement statement(database_, "SELECT name FROM packs WHERE number=?");
    statement.bind(1, place.pack);
    if (!statement.step()) return 0;
    known = names_.emplace(place.pack, std::string(base::as_chars(statement.bytes(0)))).first;
  }
  return Guard()
      .add(id.raw())
      .add(base::as_bytes(known->second))
      .add(place.group.offset)
      .add(place.group.size)
      .add(place.position)
      .add(place.size)
      .add(static_cast<std::uint64_t>(place.kind))
      .value();
}

std::vector<IndexedBlob> Index::find_damaged_locked(const PackRecord& pack) const {
  std::vector<IndexedBlob> blobs;
  Statement statement(database_,
                      "SELECT id,pack,offset,length,position,places.size,kind,guard,damaged FROM places "
                      "JOIN packs ON pack=number WHERE name=? AND packs.size=? AND mtime=? AND damaged");
  statement.bind(1, base::as_bytes(pack.name))
      .bind(2, static_cast<std::int64_t>(pack.size))
      .bind(3, pack.mtime);
  while (statement.step())
    if (statement.bytes(0).size() == base::id_size(format_))
      blobs.push_back({ObjectId(format_, statement.bytes(0)), read_place(statement, 1)});
  return blobs;
}

void Index::put_pack(const PackRecord& pack, const std::vector<IndexedBlob>& blobs,
                     const std::vector<Claim>& claims, Damage damage) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Transaction transaction(database_);
  auto damaged = damage == Damage::keep ? find_damaged_locked(pack) : std::vector<IndexedBlob>();
  forget_pack_locked(pack.name);
  // A number is never used twice, in no index of this vat: open files and decoded groups are kept by it.
  Statement(database_, "INSERT INTO packs(number,name,size,mtime) VALUES(random() & 0xffffffffffff,?,?,?)")
      .bind(1, base::as_bytes(pack.name))
      .bind(2, static_cast<std::int64_t>(pack.size))
      .bind(3, pack.mtime)
      .run();
  const std::int64_t number = database_.last_key();
  names_[number] = pack.name;
  std::vector<const IndexedBlob*> sorted;  // inserting in key order is several times faster
  sorted.reserve(blobs.size());
  for (const auto& blob : blobs) sorted.push_back(&blob);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->id < b->id; });
  Statement insert(database_, "INSERT OR REPLACE INTO places VALUES(?,?,?,?,?,?,?,?,?)");
  for (const auto* blob : sorted) {
    Place place = blob->place;
    place.pack = number;
    insert.bind(1, blob->id.raw())
        .bind(2, number)
        .bind(3, static_cast<std::int64_t>(place.group.offset))
        .bind(4, place.group.size)
        .bind(5, place.position)
        .bind(6, place.size)
        .bind(7, static_cast<int>(place.kind))
        .bind(8, guard(blob->id, place))
        .bind(9, place.damaged ? 1 : 0)
        .run();
  }
  for (auto& blob : damaged) {
    blob.place.pack = number;
    mark_damaged_locked(blob.id, blob.place);
  }
  put(database_, claims);
  transaction.commit();
}

void Index::begin_reading() {
  const std::lock_guard lock(mutex_);
  if (reading_ || !others_can_write_) return;
  database_.run("BEGIN");
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
  forget_pack_locked(name);
  transaction.commit();
}

void Index::forget_pack_locked(const std::string& name) {
  Statement number(database_, "SELECT number FROM packs WHERE name=?");
  number.bind(1, base::as_bytes(name));
  if (!number.step()) return;
  const std::int64_t pack = number.integer(0);
  number.reset();
  Statement(database_, "DELETE FROM places WHERE pack=?").bind(1, pack).run();
  Statement(database_, "DELETE FROM packs WHERE number=?").bind(1, pack).run();
  names_.erase(pack);
  renew_state_locked();
}

std::string Index::state() const {
  const std::lock_guard lock(mutex_);
  Statement statement(database_, "SELECT value FROM state");
  return statement.step() ? std::string(base::as_chars(statement.bytes(0))) : std::string();
}

void Index::renew_state_locked() {
  database_.run("UPDATE state SET value=randomblob(16)");
}

std::vector<Place> Index::find(const ObjectId& id) const {
  const std::lock_guard lock(mutex_);
  std::vector<Place> places;
  find_->bind(1, id.raw());
  while (find_->step()) {
    const Place place = read_place(*find_, 0);
    if (find_->integer(6) == guard(id, place)) places.push_back(place);
  }
  find_->reset();
  return places;
}

void Index::mark_damaged(const ObjectId& id, const Place& place) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  mark_damaged_locked(id, place);
}

void Index::mark_damaged_locked(const ObjectId& id, const Place& place) {
  Statement(database_, "UPDATE places SET damaged=1 WHERE id=? AND pack=? AND offset=? AND position=?")
      .bind(1, id.raw())
      .bind(2, place.pack)
      .bind(3, static_cast<std::int64_t>(place.group.offset))
      .bind(4, place.position)
      .run();
  renew_state_locked();
}

void Index::mark_sound(const std::string& pack) {
  const std::lock_guard lock(mutex_);
  end_reading_locked();
  Statement(database_,
            "UPDATE places SET damaged=0 WHERE damaged AND pack=(SELECT number FROM packs WHERE name=?)")
      .bind(1, base::as_bytes(pack))
      .run();
}

std::vector<Claim> Index::find_claims(const ObjectId& content) const {
  const std::lock_guard lock(mutex_);
  std::vector<Claim> claims;
  Statement statement(database_,
                      "SELECT recipe,size,guard,proven FROM claims WHERE content=? ORDER BY proven DESC");
  statement.bind(1, content.raw());
  while (statement.step()) {
    if (statement.bytes(0).size() != base::id_size(format_)) continue;
    const Claim claim{content, ObjectId(format_, statement.bytes(0)),
                      static_cast<std::uint64_t>(statement.integer(1)), statement.integer(3) != 0};
    if (statement.integer(2) == guard_of(claim)) claims.push_back(claim);
  }
  return claims;
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
                      "SELECT file_size,mtime,content_size,good,guard FROM loose WHERE id=? AND suffix=?");
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
      .bind(4, record.mtime)
      .bind(5, static_cast<std::int64_t>(record.content_size))
      .bind(6, record.good ? 1 : 0)
      .bind(7, guard_of(id, record))
      .run();
}

std::vector<IndexedBlob> Index::list_after(const ObjectId* after, std::size_t limit) const {
  const std::lock_guard lock(mutex_);
  std::vector<IndexedBlob> blobs;
  Statement statement(database_,
                      "SELECT id,pack,offset,length,position,size,kind,guard,damaged FROM places WHERE id>? "
                      "ORDER BY id,damaged");
  statement.bind(1, after != nullptr ? after->raw() : base::Bytes());
  while (blobs.size() < limit && statement.step()) {
    if (statement.bytes(0).size() != base::id_size(format_)) continue;
    const ObjectId id(format_, statement.bytes(0));
    if (!blobs.empty() && blobs.back().id == id) continue;
    const Place place = read_place(statement, 1);
    if (statement.integer(7) == guard(id, place)) blobs.push_back({id, place});
  }
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
    if (statement.bytes(0).size() != base::id_size(format_) ||
        statement.bytes(1).size() != base::id_size(format_))
      continue;
    const Claim claim{ObjectId(format_, statement.bytes(0)), ObjectId(format_, statement.bytes(1)),
                      static_cast<std::uint64_t>(statement.integer(2)), statement.integer(4) != 0};
    if (statement.integer(3) != guard_of(claim)) continue;
    if (claims.empty() || claims.back().content != claim.content) claims.push_back(claim);
  }
  return claims;
}

}  // namespace vat::internal
