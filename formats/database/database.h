// SQLite behind one small wrapper: losable databases of one table or a few, such as the index of a vat. The only
// code that includes its header.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <string>

#include "formats/base/bytes.h"
#include "formats/base/c_ptr.h"

namespace formats {

/// One connection. Errors: busy (locked by another process for 30 s), corrupt (not a database, or a damaged
/// one), local for the rest; all begin with the name. One thread at a time.
class Database {
 public:
  /// Opens or creates the file at `path`, which may be ":memory:", with the tables of `schema` in it; one of
  /// another version is emptied. Throws local if it cannot be written.
  Database(const std::string& path, std::string name, std::int64_t version, const char* schema);
  void run(const char* sql);
  /// Key of the row that was inserted last.
  [[nodiscard]] std::int64_t last_key() const noexcept;

 private:
  friend class Statement;
  void make_tables(std::int64_t version, const char* schema);
  [[noreturn]] void fail(int code) const;
  std::string name_;
  base::CPtr<sqlite3, sqlite3_close_v2> handle_;
};

/// One prepared statement. Bound bytes must live until the next reset; so must the database.
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
  const Database& database_;
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

/// XXH3 over the fields of a row; guards against rot, proves nothing.
class Guard {
 public:
  Guard& add(base::Bytes bytes);
  Guard& add(std::uint64_t value);
  [[nodiscard]] std::int64_t value() const;

 private:
  base::Buffer buffer_;
};

}  // namespace formats
