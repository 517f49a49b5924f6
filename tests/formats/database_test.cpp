#include "formats/database/database.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "formats/base/error.h"
#include "tests/formats/damage.h"
#include "tests/support/temp_dir.h"

using base::Category;
using formats::Database;

namespace {

base::Error refusal(const std::string& path, const char* schema = "CREATE TABLE x (a);") {
  return tests::error_of([&] { const Database database(path, "db", 1, schema); });
}

}  // namespace

TEST_CASE("a database that cannot be opened says what is wrong", "[database]") {
  const tests::TempDir dir;
  REQUIRE(::mkdir((dir / "d").c_str(), 0777) == 0);
  CHECK(refusal(dir / "d").category() == Category::local);
  CHECK(refusal(dir / "d").what() == std::string("db: unable to open database file"));
  tests::write_file(dir / "f", base::as_bytes(std::string(5000, 'x')));
  CHECK(refusal(dir / "f").category() == Category::corrupt);
  CHECK(refusal(dir / "f").what() == std::string("db: file is not a database"));
}

TEST_CASE("a schema that SQLite does not take leaves no tables behind", "[database]") {
  const tests::TempDir dir;
  CHECK(refusal(dir / "db", "CREATE TABLE x (a); CREATE TABLE y (").what() ==
        std::string("db: incomplete input"));
  const Database database(dir / "db", "db", 1, "CREATE TABLE x (b);");
  formats::Statement(database, "INSERT INTO x VALUES (1)").run();
}

TEST_CASE("tables of another version are made anew", "[database]") {
  const tests::TempDir dir;
  { const Database old(dir / "db", "db", 1, "CREATE TABLE \"a\"\"b\" (x);"); }
  const Database database(dir / "db", "db", 2, "CREATE TABLE c (x);");
  formats::Statement names(database, "SELECT name FROM sqlite_schema");
  REQUIRE(names.step());
  CHECK(base::as_chars(names.bytes(0)) == "c");
  CHECK_FALSE(names.step());
}
