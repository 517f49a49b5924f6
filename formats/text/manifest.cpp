#include "formats/text/manifest.h"

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>

#include "formats/base/base64.h"
#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace formats {
namespace {

using base::Category;
using base::Error;
using Type = Row::Type;

constexpr std::string_view kXattrPrefix = "xattr.";
constexpr std::string_view kTypes = "dflhcbp";

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, "manifest: " + what);
}

bool has_mode(Type type) {
  return type != Type::symlink && type != Type::hard_link;
}

/// A number, or `-` exactly where the column has no meaning.
template <typename Parse>
auto column(std::string_view text, bool meant, Parse parse, const char* name) {
  using Value = typename decltype(parse(text))::value_type;
  if (!meant) {
    if (text != "-") refuse(std::string("a ") + name + " where none belongs");
    return Value{};
  }
  const auto value = parse(text);
  if (!value) refuse(std::string("bad ") + name);
  return *value;
}

std::optional<std::uint32_t> parse_id(std::string_view text) {
  const auto value = base::parse_decimal(text);
  if (!value || *value > UINT32_MAX) return std::nullopt;
  return static_cast<std::uint32_t>(*value);
}

std::optional<std::uint32_t> parse_mode(std::string_view text) {
  const auto mode = base::parse_octal(text);
  return mode && *mode <= 07777 ? mode : std::nullopt;
}

constexpr std::int64_t kMaxSeconds = std::int64_t{1} << 62;  ///< on either side of 1970

/// A time is the decimal number of seconds that stock tools print and take, with nine digits after the point.
/// Before the epoch that number is negative, while nanoseconds of a Timestamp always count upwards.
template <typename Number>
void append_number(std::string& to, Number number, int base = 10) {
  char text[24];
  to.append(text, std::to_chars(text, std::end(text), number, base).ptr);
}

void append_time(std::string& to, const Timestamp& time) {
  const bool negative = time.seconds < 0;
  const bool borrow = negative && time.nanoseconds > 0;
  const std::uint64_t whole = negative ? static_cast<std::uint64_t>(-(time.seconds + (borrow ? 1 : 0)))
                                       : static_cast<std::uint64_t>(time.seconds);
  if (negative) to += '-';
  append_number(to, whole);
  // Nine digits behind the dot: those of a number that begins with 1.
  const std::size_t dot = to.size();
  append_number(to, 1'000'000'000U + (borrow ? 1'000'000'000 - time.nanoseconds : time.nanoseconds));
  to[dot] = '.';
}

std::optional<Timestamp> parse_time(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const auto dot = text.find('.');
  if (dot == std::string_view::npos || text.size() != dot + 10) return std::nullopt;
  const auto whole = base::parse_decimal(text.substr(0, dot));
  std::uint32_t fraction = 0;
  for (const char c : text.substr(dot + 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    fraction = fraction * 10 + static_cast<std::uint32_t>(c - '0');
  }
  if (!whole || *whole > static_cast<std::uint64_t>(kMaxSeconds) ||
      (negative && *whole == 0 && fraction == 0))
    return std::nullopt;
  const auto seconds = static_cast<std::int64_t>(*whole);
  if (!negative) return Timestamp{seconds, fraction};
  return fraction == 0 ? Timestamp{-seconds, 0} : Timestamp{-seconds - 1, 1'000'000'000 - fraction};
}

bool is_device_number(std::string_view text) {
  const auto major = parse_id(base::take_field(text, ':'));
  return major && parse_id(text);
}

void check_target(const Row& row) {
  switch (row.type) {
    case Type::symlink:
      if (row.target.empty() || row.target.size() > 65535 || row.target.find('\0') != std::string::npos)
        refuse("bad symlink target");
      break;
    case Type::hard_link:
      if (!is_safe_path(row.target) || compare_paths(row.target, row.path) >= 0)
        refuse("hard link to what is not an earlier path");
      break;
    case Type::character_device:
    case Type::block_device:
      if (!is_device_number(row.target)) refuse("bad device number");
      break;
    default:
      break;
  }
}

void parse_key(Row& row, std::string_view text, std::string& last_key) {
  const auto equals = text.find('=');
  if (equals == std::string_view::npos) refuse("key without value");
  const auto key = unescape(text.substr(0, equals), true);
  const auto value = text.substr(equals + 1);
  if (key <= last_key) refuse("keys out of order");
  last_key = key;
  if (key == "sparse") {
    if (row.type != Type::file || value != "1") refuse("bad sparse key");
    row.sparse = true;
  } else if (key.starts_with(kXattrPrefix) && key.size() > kXattrPrefix.size()) {
    const auto decoded = base::from_base64(value);
    if (!decoded || row.type == Type::hard_link || key.find('\0') != std::string::npos)
      refuse("bad extended attribute");
    row.xattrs.emplace(key.substr(kXattrPrefix.size()), *decoded);
  } else {
    refuse("unknown key '" + escape(key) + "'");
  }
}

}  // namespace

bool is_safe_path(std::string_view path) noexcept {
  if (path.empty() || path.size() > kMaxPath || path.find('\0') != std::string_view::npos) return false;
  if (path == ".") return true;
  if (path.back() == '/') return false;
  std::size_t depth = 0;
  while (!path.empty()) {
    const auto name = base::take_field(path, '/');
    if (name.empty() || name == "." || name == ".." || name.size() > kMaxName || ++depth > kMaxDepth)
      return false;
  }
  return true;
}

int compare_paths(std::string_view a, std::string_view b) noexcept {
  if (a == b) return 0;
  if (a == ".") return -1;
  if (b == ".") return 1;
  const auto [in_a, in_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (in_a == a.end()) return -1;
  if (in_b == b.end()) return 1;
  // '/' ends a name, so it sorts before every byte a name can hold.
  const int left = *in_a == '/' ? -1 : static_cast<unsigned char>(*in_a);
  const int right = *in_b == '/' ? -1 : static_cast<unsigned char>(*in_b);
  return left < right ? -1 : 1;
}

std::pair<std::string, std::string> split_path(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

bool is_special(const Row& row) noexcept {
  return row.type == Type::character_device || row.type == Type::block_device || row.type == Type::fifo;
}

std::string to_line(const Row& row) {
  const bool inode = row.type != Type::hard_link;
  std::string line(1, static_cast<char>(row.type));
  const auto column = [&](bool has, const auto& append) {
    line += ' ';
    has ? append() : line.push_back('-');
  };
  column(has_mode(row.type), [&] { append_number(line, row.mode, 8); });
  column(inode, [&] { append_number(line, row.uid); });
  column(inode, [&] { append_number(line, row.gid); });
  column(inode, [&] { append_time(line, row.mtime); });
  column(row.type == Type::file, [&] { append_number(line, row.size); });
  line += ' ';
  if (row.type == Type::file)
    line += row.blob.hex();
  else if (row.target.empty())
    line += '-';
  else
    append_escaped(line, row.target);
  line += ' ';
  append_escaped(line, row.path);
  if (row.sparse) line += " sparse=1";
  for (const auto& [name, value] : row.xattrs) {
    line += ' ';
    line += kXattrPrefix;
    append_escaped(line, name, true);
    line += '=';
    line += base::to_base64(base::as_bytes(value));
  }
  return line;
}

void check_row(const Row& row) {
  if (row.mtime.seconds > kMaxSeconds || row.mtime.seconds < -kMaxSeconds)
    refuse("its time, " + std::to_string(row.mtime.seconds) +
           " seconds from 1970, is more than a manifest holds");
  std::size_t size = 0;
  for (const auto& [name, value] : row.xattrs) size += name.size() + value.size();
  if (size > kMaxLine / 8 && to_line(row).size() > kMaxLine)
    refuse("its extended attributes, " + std::to_string(size) + " bytes, are more than a manifest holds");
}

Row parse_row(std::string_view line, base::ObjectFormat format) {
  if (line.ends_with(' ')) refuse("a blank at the end of a row");  // take_field() would not show it
  Row row;
  const auto type = base::take_field(line, ' ');
  if (type.size() != 1 || kTypes.find(type) == std::string_view::npos) refuse("unknown row type");
  row.type = static_cast<Type>(type[0]);
  const bool inode = row.type != Type::hard_link;
  row.mode = column(base::take_field(line, ' '), has_mode(row.type), parse_mode, "mode");
  row.uid = column(base::take_field(line, ' '), inode, parse_id, "uid");
  row.gid = column(base::take_field(line, ' '), inode, parse_id, "gid");
  row.mtime = column(base::take_field(line, ' '), inode, parse_time, "time");
  row.size = column(base::take_field(line, ' '), row.type == Type::file, base::parse_decimal, "size");
  const auto reference = base::take_field(line, ' ');
  if (row.type == Type::file) {
    const auto id = base::ObjectId::parse(format, reference);
    if (!id) refuse("bad blob id");
    row.blob = *id;
  } else if (row.type == Type::directory || row.type == Type::fifo) {
    if (reference != "-") refuse("a reference where none belongs");
  } else {
    row.target = unescape(reference);
  }
  row.path = unescape(base::take_field(line, ' '));
  if (!is_safe_path(row.path)) refuse("unsafe path '" + escape(row.path).substr(0, 200) + "'");
  check_target(row);
  std::string last_key;
  while (!line.empty()) parse_key(row, base::take_field(line, ' '), last_key);
  return row;
}

ManifestWriter::ManifestWriter(base::ObjectFormat format, PutText put)
    : format_(format), text_(TextWriter::Summary::first, std::move(put)) {}

void ManifestWriter::add(const Row& row) {
  if (last_.empty() ? row.path != "." : compare_paths(last_, row.path) >= 0)
    throw Error(Category::internal, "manifest rows out of order at " + row.path);
  last_ = row.path;
  text_.add(to_line(row), 0, escape(row.path));
}

base::ObjectId ManifestWriter::finish() {
  return text_.finish("manifest 1 " + std::string(base::to_string(format_)));
}

ManifestReader::ManifestReader(base::Buffer root, base::ObjectFormat format, GetText get)
    : format_(format), text_("manifest", std::move(root), format, std::move(get)) {
  if (!text_.parameters().empty()) refuse("bad first line");
}

bool ManifestReader::next(Row& row) {
  std::string_view line;
  if (!text_.next(line)) {
    if (first_) refuse("no rows");
    return false;
  }
  row = parse_row(line, format_);
  if (first_) {
    if (row.path != "." || row.type != Type::directory) refuse("the first row is not the tree itself");
    first_ = false;
    last_ = ".";
    return true;
  }
  if (compare_paths(last_, row.path) >= 0)
    refuse("'" + escape(row.path) + "' is out of order or there twice");
  const auto slash = row.path.rfind('/');
  const std::size_t parent = slash == std::string::npos ? 0 : slash;
  // open_ holds lengths of directory paths that are prefixes of last_; keep those that are prefixes of this
  // path too.
  while (!open_.empty() &&
         (open_.back() > parent || row.path.compare(0, open_.back(), last_, 0, open_.back()) != 0 ||
          row.path[open_.back()] != '/'))
    open_.pop_back();
  if (parent != (open_.empty() ? 0 : open_.back())) refuse("'" + escape(row.path) + "' lies in no directory");
  if (row.type == Type::directory) open_.push_back(row.path.size());
  last_ = row.path;
  return true;
}

}  // namespace formats
