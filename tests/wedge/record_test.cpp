// What a wedge remembers of an entry is what was written, or it is as if it were not there.
#include "wedge/internal/record.h"

#include <catch2/catch.hpp>

#include "formats/json/json.h"
#include "tests/formats/damage.h"
#include "tests/wedge/test_store.h"
#include "wedge/internal/kept.h"

using formats::Row;
using wedge::internal::read_record;
using wedge::internal::read_sound_record;
using wedge::internal::Record;

namespace {

Row row(Row::Type type, const std::string& path) {
  Row made;
  made.type = type;
  made.path = path;
  made.mode = 0755;
  return made;
}

}  // namespace

TEST_CASE("a record comes back, and a damaged one does not", "[wedge][record]") {
  const tests::TempDir dir;
  const auto records = tests::open_dir(dir.path());
  const Record record{"a b", "/s", "tree x", 77, "abc0", base::ObjectFormat::sha1, true};
  {
    wedge::internal::RecordWriter writer(records.get(), record, -1);
    writer.add(row(Row::Type::directory, "."));
    writer.add(row(Row::Type::fifo, "pipe"));
    writer.publish("r");
  }
  const auto back = read_sound_record(records.get(), "r");
  REQUIRE(back);
  CHECK(back->path == record.path);
  CHECK(back->owner == record.owner);
  CHECK(back->key == record.key);
  CHECK(back->inode == 77);
  CHECK(back->workspace == record.workspace);
  CHECK(back->format == record.format);
  CHECK(back->in_place);
  const auto rows = wedge::internal::read_rows(records.get(), "r");
  Row got;
  REQUIRE((rows(got) && got.path == "."));
  REQUIRE((rows(got) && got.path == "pipe"));
  CHECK_FALSE(rows(got));

  const auto text = tests::read_file(dir / "r");
  const auto damaged = [&](const base::Buffer& bytes) {
    tests::write_file(dir / "r", bytes);
    CHECK_FALSE(read_sound_record(records.get(), "r"));
  };
  REQUIRE(::chmod((dir / "r").c_str(), 0600) == 0);
  tests::for_each_truncation(base::as_bytes(text), damaged);
  tests::for_each_flip(base::as_bytes(text), damaged);
}

TEST_CASE("a record's head has all it should have, or is none", "[wedge][record]") {
  const tests::TempDir dir;
  const auto records = tests::open_dir(dir.path());
  const formats::json::Object whole{{"entry", 2},
                                    {"path", "t"},
                                    {"owner", "/s"},
                                    {"key", "tree x"},
                                    {"inode", 5},
                                    {"workspace", "0a"},
                                    {"object-format", "sha256"}};
  const auto is_record = [&](const formats::json::Value& head) {
    tests::write_file(dir / "r", base::as_bytes(formats::json::to_line(head) + "\n"));
    return read_record(records.get(), "r").has_value();
  };
  CHECK(is_record(whole));
  for (std::size_t i = 0; i < whole.size(); ++i) {
    INFO(whole[i].first);
    auto head = whole;
    head[i].second = formats::json::Array();
    CHECK_FALSE(is_record(head));
    head.erase(head.begin() + static_cast<std::ptrdiff_t>(i));
    CHECK_FALSE(is_record(head));
  }
  for (const auto& [key, value] : formats::json::Object{
           {"entry", 1}, {"entry", 4}, {"workspace", "../x"}, {"object-format", "md5"}, {"path", "\\0"}}) {
    auto head = whole;
    for (auto& member : head)
      if (member.first == key) member.second = value;
    CHECK_FALSE(is_record(head));
  }
  CHECK_FALSE(is_record(formats::json::Array()));
  CHECK_FALSE(read_record(-1, "r"));
  CHECK_FALSE(read_record(records.get(), "none"));
}

TEST_CASE("a record says what the file system kept, beside what was asked for", "[wedge][record]") {
  const tests::TempDir dir;
  const auto records = tests::open_dir(dir.path());
  auto kept = row(Row::Type::file, "b");
  kept.mode = 0777;
  const std::string owner = "/s\xff";
  {
    Record record{"a\xfe", owner, "tree x", 77, "", base::ObjectFormat::sha256};
    record.kept = true;
    wedge::internal::RecordWriter writer(records.get(), record, -1);
    for (const auto* path : {".", "a", "b"}) writer.add(row(Row::Type::directory, path));
    writer.add_kept(kept);
    writer.add(row(Row::Type::fifo, "c"));
    writer.publish("r");
  }
  const auto head = read_sound_record(records.get(), "r");
  REQUIRE(head);
  CHECK(head->kept);
  CHECK(head->owner == owner);
  CHECK(head->path == "a\xfe");
  const auto read = [](const wedge::NextRow& next) {
    std::vector<Row> rows;
    for (Row one; next(one);) rows.push_back(one);
    return rows;
  };
  const auto wanted = read(wedge::internal::read_rows(records.get(), "r"));
  const auto there = read(wedge::internal::read_kept_rows(records.get(), "r"));
  REQUIRE(wanted.size() == 4);
  REQUIRE(there.size() == 4);
  CHECK(wanted[2] == row(Row::Type::directory, "b"));
  CHECK(there[2] == kept);
  CHECK(there[3] == wanted[3]);

  // Only a row that still is what was asked for is compared with what was kept.
  std::uint64_t used = 0;
  auto asked = wanted;
  auto next = [&, at = std::size_t{0}](Row& one) mutable {
    if (at == asked.size()) return false;
    one = asked[at++];
    return true;
  };
  CHECK(read(wedge::internal::as_kept(next, records.get(), "r", used)) == there);
  CHECK(used == 1);
  asked[2].mode = 0700;
  CHECK(read(wedge::internal::as_kept(next, records.get(), "r", used)) == asked);
  CHECK(used == 1);
}
