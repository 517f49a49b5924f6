#include "wedge/internal/record.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/json/json.h"

namespace wedge::internal {
namespace {

using base::Error;
using formats::Row;

constexpr std::size_t kMaxHead = std::size_t{1} << 20;
constexpr std::size_t kBuffer = std::size_t{256} << 10;
/// The last line: this, 64 hex digits of the SHA-256 of all before it, and a newline.
constexpr std::string_view kEnd = "end ";
constexpr std::size_t kEndSize = kEnd.size() + 64 + 1;

std::string to_text(const Record& record) {
  formats::json::Object object{{"entry", 2},
                               {"object-format", base::to_string(record.format)},
                               {"key", record.key},
                               {"inode", record.inode},
                               {"workspace", record.workspace},
                               {"owner", formats::escape(record.owner)},
                               {"path", formats::escape(record.path)}};
  if (record.in_place) object.emplace_back("in-place", true);
  return formats::json::to_line(object) + "\n";
}

/// Throws refused where the head is not one.
Record parse_head(std::string_view line) {
  const auto refuse = [] { throw Error(base::Category::refused, "bad record"); };
  const auto document = formats::json::parse(line);
  const auto* object = document.find_object();
  if (object == nullptr) refuse();
  const auto text = [&](const char* key) {
    const auto* value = formats::json::find(*object, key);
    if (value == nullptr || value->find_string() == nullptr) refuse();
    return *value->find_string();
  };
  const auto number = [&](const char* key) {
    std::uint64_t result = 0;
    const auto* value = formats::json::find(*object, key);
    if (value == nullptr || !value->find_unsigned(result)) refuse();
    return result;
  };
  const auto format = base::find_object_format(text("object-format"));
  const auto* in_place = formats::json::find(*object, "in-place");
  const auto workspace = text("workspace");  // a name, never a way out of tmp/
  if (number("entry") != 2 || !format || workspace.find_first_not_of("0123456789abcdef") != std::string::npos)
    refuse();
  return {formats::unescape(text("path")),
          formats::unescape(text("owner")),
          text("key"),
          number("inode"),
          workspace,
          *format,
          in_place != nullptr && in_place->find_bool() != nullptr && *in_place->find_bool()};
}

}  // namespace

std::optional<Record> RecordReader::head() {
  std::string line;
  if (!lines_.next(line) || line.size() > kMaxHead) return std::nullopt;
  try {
    auto record = parse_head(line);
    format_ = record.format;
    return record;
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool RecordReader::next(Row& row) {
  std::string line;
  if (!lines_.next(line) || line.starts_with(kEnd)) return false;
  row = formats::parse_row(line, format_);
  return true;
}

std::string record_name(const std::string& path) {
  return base::hash_blob(base::ObjectFormat::sha256, base::as_bytes(path)).hex().substr(0, 40);
}

std::optional<Record> read_record(int records, const std::string& name) {
  if (records < 0) return std::nullopt;
  auto fd = base::find_open_at(records, name, O_RDONLY | O_NOFOLLOW);
  if (!fd) return std::nullopt;
  return RecordReader(std::move(*fd)).head();
}

std::optional<Record> read_sound_record(int records, const std::string& name) {
  auto head = read_record(records, name);
  const auto fd = head ? base::find_open_at(records, name, O_RDONLY | O_NOFOLLOW) : std::nullopt;
  if (!fd) return std::nullopt;
  const auto size = base::file_size(fd->get());
  if (size < kEndSize) return std::nullopt;
  base::Sha256 hash;
  base::Buffer buffer(kBuffer);
  for (std::uint64_t at = 0; at < size - kEndSize;) {
    const auto part = base::MutableBytes(buffer).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(kBuffer, size - kEndSize - at)));
    if (!base::read_exact_at(fd->get(), at, part)) return std::nullopt;
    hash.update(part);
    at += part.size();
  }
  const auto end = std::string(kEnd) + base::to_hex(hash.finish()) + "\n";
  const auto last = base::MutableBytes(buffer).first(kEndSize);
  if (!base::read_exact_at(fd->get(), size - kEndSize, last) || base::as_chars(last) != end)
    return std::nullopt;
  return head;
}

NextRow read_rows(int records, const std::string& name) {
  auto fd = base::find_open_at(records, name, O_RDONLY | O_NOFOLLOW);
  if (!fd) return [](Row&) { return false; };
  auto reader = std::make_shared<RecordReader>(std::move(*fd));  // shared: a function has to be copyable
  (void)reader->head();
  return [reader](Row& row) { return reader->next(row); };
}

std::optional<Row> read_first(int records, const std::string& name) {
  Row row;
  return read_rows(records, name)(row) ? std::optional(std::move(row)) : std::nullopt;
}

RecordWriter::RecordWriter(int records, Record record, int work)
    : records_(records), file_(records, 0600), record_(std::move(record)), work_(work) {}

void RecordWriter::add(const Row& row) {
  if (!begun_) {
    struct stat info;
    if (work_ >= 0 && ::fstatat(work_, "new", &info, AT_SYMLINK_NOFOLLOW) != 0)
      base::throw_errno("new entry", errno);
    if (work_ >= 0) record_.inode = info.st_ino;
    text_ = to_text(record_);
    top_ = row;
    begun_ = true;
  }
  text_ += formats::to_line(row) + "\n";
  if (text_.size() >= kBuffer) flush();
}

void RecordWriter::flush() {
  hash_.update(base::as_bytes(text_));
  file_.write(base::as_bytes(text_));
  text_.clear();
}

void RecordWriter::publish(const std::string& name) {
  flush();
  file_.write(base::as_bytes(std::string(kEnd) + base::to_hex(hash_.finish()) + "\n"));
  (void)file_.publish(records_, name, base::AtomicFile::Existing::replace);
}

}  // namespace wedge::internal
