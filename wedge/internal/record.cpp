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
/// Before a row that the file system has instead of the one before.
constexpr std::string_view kKept = "kept ";
constexpr std::uint64_t kVersion = 2, kVersionWithKept = 3;
constexpr std::size_t kEndSize = kEnd.size() + 64 + 1;

std::string to_text(const Record& record) {
  formats::json::Object object{{"entry", record.kept ? kVersionWithKept : kVersion},
                               {"object-format", base::to_string(record.format)},
                               {"key", record.key},
                               {"inode", record.inode},
                               {"workspace", record.workspace},
                               {"owner", formats::escape_for_json(record.owner)},
                               {"path", formats::escape_for_json(record.path)}};
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
  const auto version = number("entry");
  if ((version != kVersion && version != kVersionWithKept) || !format ||
      workspace.find_first_not_of("0123456789abcdef") != std::string::npos)
    refuse();
  return {formats::unescape_from_json(text("path")),
          formats::unescape_from_json(text("owner")),
          text("key"),
          number("inode"),
          workspace,
          *format,
          in_place != nullptr && in_place->find_bool() != nullptr && *in_place->find_bool(),
          version == kVersionWithKept};
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

bool RecordReader::next_line() {
  have_line_ = have_line_ || lines_.next(line_);
  return have_line_;
}

bool RecordReader::next(Row& row) {
  while (next_line() && line_.starts_with(kKept)) have_line_ = false;
  if (!have_line_ || line_.starts_with(kEnd)) return false;
  row = formats::parse_row(line_, format_);
  have_line_ = false;
  return true;
}

bool RecordReader::next(Row& row, std::optional<Row>& kept) {
  kept.reset();
  if (!next(row)) return false;
  if (next_line() && line_.starts_with(kKept)) {
    kept = formats::parse_row(std::string_view(line_).substr(kKept.size()), format_);
    have_line_ = false;
  }
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

std::optional<RecordReader> open_record(int records, const std::string& name) {
  auto fd = records >= 0 ? base::find_open_at(records, name, O_RDONLY | O_NOFOLLOW) : std::nullopt;
  if (!fd) return std::nullopt;
  RecordReader reader(std::move(*fd));
  if (!reader.head()) return std::nullopt;
  return reader;
}

NextRow read_rows(int records, const std::string& name) {
  auto found = open_record(records, name);
  if (!found) return [](Row&) { return false; };
  auto reader = std::make_shared<RecordReader>(std::move(*found));  // shared: a function has to be copyable
  return [reader](Row& row) { return reader->next(row); };
}

NextRow read_kept_rows(int records, const std::string& name) {
  auto found = open_record(records, name);
  if (!found) return [](Row&) { return false; };
  auto reader = std::make_shared<RecordReader>(std::move(*found));
  return [reader, kept = std::optional<Row>()](Row& row) mutable {
    if (!reader->next(row, kept)) return false;
    if (kept) row = std::move(*kept);
    return true;
  };
}

std::optional<Row> read_first(int records, const std::string& name) {
  Row row;
  return read_rows(records, name)(row) ? std::optional(std::move(row)) : std::nullopt;
}

RecordWriter::RecordWriter(int records, Record record, int work)
    : records_(records), file_(records), record_(std::move(record)), work_(work) {}

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

void RecordWriter::add_kept(const Row& row) {
  text_ += std::string(kKept) + formats::to_line(row) + "\n";
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
