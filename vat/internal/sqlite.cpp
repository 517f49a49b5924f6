#include "vat/internal/sqlite.h"

#include "formats/base/error.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;

Error describe(sqlite3* database, int code) {
  const int primary = code & 0xff;
  const bool busy = primary == SQLITE_BUSY || primary == SQLITE_LOCKED;
  const bool damaged = primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB;
  return {busy      ? Category::busy
          : damaged ? Category::corrupt
                    : Category::local,
          std::string("index: ") + (database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code))};
}

[[noreturn]] void fail(sqlite3* database, int code) {
  throw describe(database, code);
}

}  // namespace

Database::Database(const std::string& path) {
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &raw,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  handle_.reset(raw);  // a handle comes even when opening fails
  if (code != SQLITE_OK) fail(raw, code);
  (void)sqlite3_busy_timeout(raw, 30000);
}

void Database::run(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail(handle_.get(), code);
}

Statement::Statement(const Database& database, const char* sql) : database_(database.get()) {
  sqlite3_stmt* raw = nullptr;
  const int code = sqlite3_prepare_v2(database_, sql, -1, &raw, nullptr);
  handle_.reset(raw);
  if (code != SQLITE_OK) fail(database_, code);
}

Statement& Statement::bind(int index, std::int64_t value) {
  const int code = sqlite3_bind_int64(handle_.get(), index, value);
  if (code != SQLITE_OK) fail(database_, code);
  return *this;
}

Statement& Statement::bind(int index, base::Bytes value) {
  const void* data =
      value.empty() ? "" : static_cast<const void*>(value.data());  // a null pointer would bind NULL
  const int code = sqlite3_bind_blob64(handle_.get(), index, data, value.size(), SQLITE_STATIC);
  if (code != SQLITE_OK) fail(database_, code);
  return *this;
}

bool Statement::step() {
  const int code = sqlite3_step(handle_.get());
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) {
    const Error error = describe(database_, code);  // before reset() replaces the message
    reset();
    throw error;
  }
  return false;
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
  } catch (const Error&) {
    // SQLite rolled back by itself, or will when the connection closes
  }
}

void Transaction::commit() {
  database_.run("COMMIT");
  open_ = false;
}

}  // namespace vat::internal
