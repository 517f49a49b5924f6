#include "formats/text/text_object.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "formats/base/utf8.h"
#include "tests/formats/text_store.h"

using base::Category;
using base::ObjectFormat;
using formats::TextReader;
using formats::TextWriter;
using tests::to_buffer;

namespace {

base::ObjectId write(tests::TextStore& store, const std::vector<std::string>& lines) {
  TextWriter writer(TextWriter::Summary::size, store.put());
  for (const auto& line : lines) writer.add(line, line.size(), {});
  return writer.finish("list 1 sha256 x");
}

std::vector<std::string> read(tests::TextStore& store, base::Buffer root) {
  TextReader reader("list", std::move(root), ObjectFormat::sha256, store.get());
  std::vector<std::string> lines;
  for (std::string_view line; reader.next(line);) lines.emplace_back(line);
  return lines;
}

std::vector<std::string> numbered(std::size_t count, std::string_view tail = {}) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < count; ++i) lines.push_back(std::to_string(i * 7919) + std::string(tail));
  return lines;
}

/// Three levels of few lines: three long lines reach the byte goal of a piece, and so do six long keys of a
/// list.
struct Deep {
  static constexpr std::size_t kLines = 60, kLineSize = 500000, kKeySize = 200000;
  static std::string line(std::size_t i) {
    auto text = std::to_string(i);
    text.resize(kLineSize, '.');
    return text;
  }
  static std::string key(std::size_t i) {
    auto text = "key" + std::to_string(i);
    text.resize(kKeySize, 'k');
    return text;
  }
  static base::ObjectId write(tests::TextStore& store, std::size_t changed = SIZE_MAX) {
    TextWriter writer(TextWriter::Summary::first, store.put());
    for (std::size_t i = 0; i < kLines; ++i) writer.add(i == changed ? line(i + 1000) : line(i), 0, key(i));
    return writer.finish("list 1 sha256");
  }
};

bool refused(tests::TextStore& store, std::string_view root) {
  return tests::category_of([&] { (void)read(store, to_buffer(root)); }) == Category::refused;
}

}  // namespace

TEST_CASE("a short text object is its header and its lines", "[text]") {
  tests::TextStore store;
  // Golden value: `printf 'list 1 sha256 x\na\nb\n' | git hash-object --stdin` in a sha256 repository.
  const auto id = write(store, {"a", "b"});
  CHECK(tests::to_text(store.root()) == "list 1 sha256 x\na\nb\n");
  CHECK(id.hex() == "c167a69e9cee05c8d7ebc387fa513c4e2424e24d3a0f909eb658bef255f46b00");
  CHECK(read(store, store.root()) == std::vector<std::string>{"a", "b"});
}

TEST_CASE("a text object without lines is its header", "[text]") {
  tests::TextStore store;
  (void)write(store, {});
  CHECK(tests::to_text(store.root()) == "list 1 sha256 x\n");
  CHECK(read(store, store.root()).empty());
}

TEST_CASE("only more than 4096 lines are cut into pieces", "[text]") {
  for (const std::size_t count : {4095U, 4096U, 4097U}) {
    tests::TextStore store;
    const auto lines = numbered(count);
    (void)write(store, lines);
    TextReader reader("list", store.root(), ObjectFormat::sha256, store.get());
    CHECK(reader.parameters() == "x");
    CHECK(reader.level() == (count > 4096 ? 2 : 1));
    CHECK((store.ids().size() > 1) == (count > 4096));
    CHECK(read(store, store.root()) == lines);
  }
}

TEST_CASE("every line of an object of many pieces comes back in order", "[text]") {
  tests::TextStore store;
  const auto lines = numbered(100000);
  (void)write(store, lines);
  CHECK(store.ids().size() > 100000 / 4096);
  CHECK(read(store, store.root()) == lines);
  CHECK(store.fetched.size() == store.ids().size() - 1);
}

TEST_CASE("a changed line changes only its piece and the lists above it", "[text]") {
  tests::TextStore store;
  auto lines = numbered(100000);
  (void)write(store, lines);
  const auto before = store.ids();
  for (const std::size_t at : {std::size_t{0}, std::size_t{50000}, lines.size() - 1}) {
    tests::TextStore changed;
    auto other = lines;
    other[at] += " changed";
    (void)write(changed, other);
    std::size_t fresh = 0;
    for (const auto& id : changed.ids()) fresh += before.count(id) == 0;
    CHECK(fresh <= 3);  // the piece, perhaps its neighbour, the root
    CHECK(read(changed, changed.root()) == other);
  }
}

TEST_CASE("an inserted or removed line changes only pieces near it", "[text]") {
  tests::TextStore store;
  const auto lines = numbered(100000);
  (void)write(store, lines);
  const auto before = store.ids();
  for (const bool insert : {true, false}) {
    tests::TextStore changed;
    auto other = lines;
    if (insert)
      other.insert(other.begin() + 30000, "inserted");
    else
      other.erase(other.begin() + 30000);
    (void)write(changed, other);
    std::size_t fresh = 0;
    for (const auto& id : changed.ids()) fresh += before.count(id) == 0;
    CHECK(fresh <= 8);  // a piece of the greatest length shifts the next; a line that ends a piece stops it
    CHECK(read(changed, changed.root()) == other);
  }
}

TEST_CASE("long lines end pieces by their bytes and lists of long keys nest", "[text]") {
  tests::TextStore store;
  (void)Deep::write(store);
  TextReader reader("list", store.root(), ObjectFormat::sha256, store.get());
  CHECK(reader.level() >= 3);
  CHECK(reader.parameters().empty());
  const auto root = tests::to_text(store.root());
  CHECK(root.starts_with("list 1 sha256 level " + std::to_string(reader.level()) + "\n"));
  std::size_t count = 0;
  for (std::string_view line; reader.next(line); ++count)
    if (line != Deep::line(count)) FAIL("line " << count);
  CHECK(count == Deep::kLines);
  for (const auto& id : store.ids()) CHECK(store.blob(id).size() <= formats::kMaxTextBlob);
}

TEST_CASE("a changed line changes one piece a level", "[text]") {
  tests::TextStore store;
  (void)Deep::write(store);
  const auto before = store.ids();
  const int levels = TextReader("list", store.root(), ObjectFormat::sha256, store.get()).level();
  tests::TextStore changed;
  (void)Deep::write(changed, 30);
  int fresh = 0;
  for (const auto& id : changed.ids()) fresh += before.count(id) == 0;
  CHECK(fresh == levels);
}

TEST_CASE("pieces that are not wanted are passed over unfetched", "[text]") {
  tests::TextStore store;
  (void)Deep::write(store);
  TextReader reader("list", store.root(), ObjectFormat::sha256, store.get());
  std::uint64_t passed = 0;
  std::vector<base::ObjectId> announced;
  constexpr std::size_t kTarget = 40;
  reader.wanted = [&](const TextReader::Listed& listed) {
    if (passed + listed.lines > kTarget) return true;
    passed += listed.lines;
    return false;
  };
  reader.on_piece = [&](const base::ObjectId& id) { announced.push_back(id); };
  std::string_view line;
  while (passed <= kTarget) {
    REQUIRE(reader.next(line));
    ++passed;
  }
  CHECK(line == Deep::line(kTarget));
  CHECK(store.fetched.size() == static_cast<std::size_t>(reader.level()) - 1);
  CHECK(announced.size() > store.fetched.size());  // those passed over are told of too
  for (const auto& id : store.fetched) CHECK(std::count(announced.begin(), announced.end(), id) == 1);
}

TEST_CASE("a line longer than 1 MiB is refused and one of 1 MiB is not", "[text]") {
  tests::TextStore store;
  std::vector<std::string> lines{std::string(formats::kMaxLine - 1, 'a'),
                                 std::string(formats::kMaxLine, 'b')};
  (void)write(store, lines);
  CHECK(read(store, store.root()) == lines);
  lines.back() += 'b';
  CHECK(tests::category_of([&] { (void)write(store, lines); }) == Category::refused);
  CHECK(refused(store, "list 1 sha256 x\n" + lines.back() + "\n"));
}

TEST_CASE("a header that is not exactly as written is refused", "[text]") {
  tests::TextStore store;
  for (const auto* bad : {"",
                          "\n",
                          "list",
                          "list\n",
                          "list 1\n",
                          "list 1 sha1 x\n",
                          "list 2 sha256 x\n",
                          "list 01 sha256\n",
                          "list 1 sha2567\n",
                          "List 1 sha256 x\n",
                          " list 1 sha256 x\n",
                          "list  1 sha256 x\n",
                          "list 1 sha256",
                          "manifest 1 sha256\n",
                          "list 1 sha256 \n",
                          "list 1 sha256 x level 1\n",
                          "list 1 sha256 x level 0\n",
                          "list 1 sha256 x level 9\n",
                          "list 1 sha256 x level 02\n",
                          "list 1 sha256 x level 2 \n",
                          "list 1 sha256 x level \n",
                          "list 1 sha256  level 2\n",
                          "list 1 sha256 x level 18446744073709551617\n",
                          "list 1 sha256 x\nno end",
                          "list 1 sha256 x\na\n\nb"}) {
    INFO(bad);
    CHECK(refused(store, bad));
  }
  CHECK(refused(store, "list 1 sha256 " + std::string(2000, 'x') + "\n"));
}

TEST_CASE("lists that lie are refused", "[text]") {
  tests::TextStore store;
  const auto two = store.add("a\nb\n").hex();
  const auto open = store.add("a\nb").hex();
  const auto list = store.add(two + " 2 x\n" + two + " 2 x\n").hex();
  const auto empty = store.add("").hex();
  const auto huge = store.add(std::string(formats::kMaxTextBlob, '\n') + "\n").hex();
  const auto level2 = [&](const std::string& lines) { return "list 1 sha256 x level 2\n" + lines; };
  const auto level3 = [&](const std::string& lines) { return "list 1 sha256 x level 3\n" + lines; };
  CHECK(read(store, to_buffer(level2(two + " 2 x\n"))).size() == 2);
  CHECK(read(store, to_buffer(level3(list + " 4 x\n"))).size() == 4);
  for (const auto& bad : {level2(two + " 1 x\n"),
                          level2(two + " 3 x\n"),
                          level2(two + " 0 x\n"),
                          level2(two + " 02 x\n"),
                          level2(two + " 2 \n"),
                          level2(two + " 2\n"),
                          level2(two + "\n"),
                          level2("\n"),
                          level2(two + " -2 x\n"),
                          level2(two.substr(1) + " 2 x\n"),
                          level2("A" + two.substr(1) + " 2 x\n"),
                          level2(open + " 2 x\n"),
                          level2(empty + " 1 x\n"),
                          level2(huge + " 1 x\n"),
                          level2(two + " 18446744073709551616 x\n"),
                          level2(two + " 18446744073709551615 x\n"),
                          level2(list + " 4 x\n"),
                          level3(two + " 2 x\n"),
                          level3(list + " 3 x\n"),
                          level3(list + " 5 x\n"),
                          level3(list + " 2 x\n"),
                          level3(list + " 18446744073709551615 x\n")}) {
    INFO(bad);
    CHECK(refused(store, bad));
  }
  for (const auto& bad : {level2(empty + " 1 x\n"), level2(huge + " 1 x\n")})
    CHECK(tests::message_of([&] { (void)read(store, to_buffer(bad)); }) == "piece of impossible size");
}

TEST_CASE("an object damaged anywhere is refused, or read as what it says", "[text]") {
  tests::TextStore store;
  const auto lines = numbered(5000);
  (void)write(store, lines);
  const auto root = store.root();
  const auto newlines = std::count(root.begin(), root.end(), std::byte{'\n'});
  const auto try_read = [&](const base::Buffer& bytes) {
    std::vector<std::string> got;
    if (!tests::accepts([&] { got = read(store, bytes); }) || bytes.size() != root.size()) return;
    // A parameter and a summary are not for this reader to judge; " level 2" or a list line may become part
    // of one.
    const bool list = TextReader("list", bytes, ObjectFormat::sha256, {}).level() == 2;
    if (list && std::count(bytes.begin(), bytes.end(), std::byte{'\n'}) == newlines) CHECK((got == lines));
  };
  tests::for_each_truncation(root, try_read);
  tests::for_each_flip(root, try_read);
}

TEST_CASE("every byte has one spelling", "[text]") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  for (const bool equals_too : {false, true}) {
    const auto text = formats::escape(all, equals_too);
    CHECK(formats::unescape(text, equals_too) == all);
    CHECK(std::none_of(text.begin(), text.end(), [](char c) { return c >= 0 && (c <= ' ' || c == 0x7f); }));
  }
  CHECK(formats::escape("a b\\\n\x7f=\xff") == "a\\040b\\134\\012\\177=\xff");
  CHECK(formats::escape("a=b", true) == "a\\075b");
  for (const auto* bad : {"\\", "\\0", "\\04", "\\048", "\\04x", "\\400", "\\777", "\\101", "\\075", "\\377",
                          "\\\\", " ", "a\tb", "\x7f", "\\ 40", "\\-40"}) {
    INFO(bad);
    CHECK(tests::category_of([&] { (void)formats::unescape(bad); }) == Category::refused);
  }
  CHECK(tests::category_of([] { (void)formats::unescape("a=b", true); }) == Category::refused);
  CHECK(tests::category_of([] { (void)formats::unescape(std::string_view("a\0b", 3)); }) ==
        Category::refused);
}

TEST_CASE("a path stands in JSON whatever its bytes are", "[text]") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  for (const auto& path : {all,
                           std::string("Gr\xf6\xdf"
                                       "e"),
                           std::string("Gr\xc3\xb6\xc3\x9f"
                                       "e"),
                           std::string("a\\377 b"), std::string()}) {
    const auto text = formats::escape_for_json(path);
    CHECK(base::is_utf8(text));
    CHECK(formats::unescape_from_json(text) == path);
  }
  CHECK(formats::escape_for_json("Gr\xf6\xdf"
                                 "e") == "Gr\\366\\337e");
  // UTF-8 stays as it was always written.
  CHECK(formats::escape_for_json("Gr\xc3\xb6\xc3\x9f e") == "Gr\xc3\xb6\xc3\x9f\\040e");
  CHECK(tests::category_of([] { (void)formats::unescape_from_json("\\377\\1"); }) == Category::refused);
}
