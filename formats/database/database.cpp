#include "formats/database/database.h"

#include <xxhash.h>

#include <chrono>
#include <thread>
#include <vector>

#include "formats/base/endian.h"
#include "formats/base/error.h"

namespace formats {

using base::Category;
using base::Error;

namespace {
constexpr int kModeAttempts = 500;  ///< every 20 ms
}

Database::Database(const std::string& path, std::string name, std::int64_t version, const char* schema)
    : name_(std::move(name)) {
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &raw,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  handle_.reset(raw);  // a handle comes even when opening fails
  if (code != SQLITE_OK) fail(code);
  (void)sqlite3_busy_timeout(raw, 30000);
  // Two that make one file at the same time: SQLite does not wait for the mode, whatever the timeout.
  for (int left = kModeAttempts;; --left) {
    try {
      run("PRAGMA journal_mode=WAL");
      break;
    } catch (const Error& error) {
      if (error.category() != Category::busy || left == 0) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  run("PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384");
  make_tables(version, schema);
  { const Transaction writable(*this); }  // one that cannot be written is of no use
}

void Database::make_tables(std::int64_t version, const char* schema) {
  Statement found(*this, "PRAGMA user_version");
  (void)found.step();
  if (found.integer(0) == version) return;
  found.reset();
  Transaction transaction(*this);
  std::vector<std::string> tables;
  Statement names(*this, "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'");
  while (names.step()) tables.emplace_back(base::as_chars(names.bytes(0)));
  names.reset();
  for (const auto& table : tables) {
    std::string quoted;
    for (const char c : table) quoted += c == '"' ? "\"\"" : std::string(1, c);
    run(("DROP TABLE \"" + quoted + "\"").c_str());
  }
  run(schema);
  run(("PRAGMA user_version=" + std::to_string(version)).c_str());
  transaction.commit();
}

void Database::run(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail(code);
}

std::int64_t Database::last_key() const noexcept {
  return sqlite3_last_insert_rowid(handle_.get());
}

void Database::fail(int code) const {
  const int primary = code & 0xff;
  const bool busy = primary == SQLITE_BUSY || primary == SQLITE_LOCKED;
  const bool damaged = primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB;
  throw Error(busy      ? Category::busy
              : damaged ? Category::corrupt
                        : Category::local,
              name_ + ": " + (handle_ ? sqlite3_errmsg(handle_.get()) : sqlite3_errstr(code)));
}

Statement::Statement(const Database& database, const char* sql) : database_(database) {
  sqlite3_stmt* raw = nullptr;
  const int code = sqlite3_prepare_v2(database_.handle_.get(), sql, -1, &raw, nullptr);
  handle_.reset(raw);
  if (code != SQLITE_OK) database_.fail(code);
}

Statement& Statement::bind(int index, std::int64_t value) {
  const int code = sqlite3_bind_int64(handle_.get(), index, value);
  if (code != SQLITE_OK) database_.fail(code);
  return *this;
}

Statement& Statement::bind(int index, base::Bytes value) {
  const void* data =
      value.empty() ? "" : static_cast<const void*>(value.data());  // a null pointer would bind NULL
  const int code = sqlite3_bind_blob64(handle_.get(), index, data, value.size(), SQLITE_STATIC);
  if (code != SQLITE_OK) database_.fail(code);
  return *this;
}

bool Statement::step() {
  const int code = sqlite3_step(handle_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  try {
    database_.fail(code);
  } catch (...) {
    reset();  // not before: it replaces the message
    throw;
  }
}

void Statement::run() {
  while (step()) {
  }
  reset();
}

void Statement::reset() noexcept {
  (void)sqlite3_reset(handle_.get());
}

std::int64_t Statement::integer(int column) const noexcept {
  return sqlite3_column_int64(handle_.get(), column);
}

base::Bytes Statement::bytes(int column) const noexcept {
  const auto* data = static_cast<const std::byte*>(sqlite3_column_blob(handle_.get(), column));
  return {data, static_cast<std::size_t>(sqlite3_column_bytes(handle_.get(), column))};
}

Transaction::~Transaction() {
  if (!open_) return;
  try {
    database_.run("ROLLBACK");
  } catch (const std::exception&) {
    // SQLite rolled back by itself, or will when the connection closes
  }
}

void Transaction::commit() {
  database_.run("COMMIT");
  open_ = false;
}

Guard& Guard::add(base::Bytes bytes) {
  base::append(buffer_, bytes);
  return *this;
}

Guard& Guard::add(std::uint64_t value) {
  base::append_le(buffer_, value);
  return *this;
}

std::int64_t Guard::value() const {
  return static_cast<std::int64_t>(XXH3_64bits(buffer_.data(), buffer_.size()));
}

}  // namespace formats
