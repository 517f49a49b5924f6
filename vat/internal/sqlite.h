// SQLite behind one small wrapper; the only code that includes its header.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <string>

#include "formats/base/bytes.h"
#include "formats/base/c_ptr.h"

namespace vat::internal {

/// One connection. Errors: busy (locked by another process for 30 s), corrupt (not a database, or a damaged
/// one), local for the rest. One thread at a time.
class Database {
 public:
  /// `path` may be ":memory:".
  explicit Database(const std::string& path);
  void run(const char* sql);
  [[nodiscard]] sqlite3* get() const noexcept { return handle_.get(); }

 private:
  base::CPtr<sqlite3, sqlite3_close_v2> handle_;
};

/// One prepared statement. Bound bytes must live until the next reset.
class Statement {
 public:
  Statement(const Database& database, const char* sql);
  Statement& bind(int index, std::int64_t value);
  Statement& bind(int index, base::Bytes value);
  /// True while there is a row.
  [[nodiscard]] bool step();
  /// Runs to the end and makes the statement ready for new values.
  void run();
  void reset() noexcept;
  [[nodiscard]] std::int64_t integer(int column) const noexcept;
  [[nodiscard]] base::Bytes bytes(int column) const noexcept;

 private:
  sqlite3* database_;
  base::CPtr<sqlite3_stmt, sqlite3_finalize> handle_;
};

/// Begins at once, rolls back unless committed.
class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database) { database_.run("BEGIN IMMEDIATE"); }
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database& database_;
  bool open_ = true;
};

}  // namespace vat::internal
