#include "formats/base/mounts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <fstream>

#include "formats/base/numbers.h"

namespace base {
namespace {

bool is_octal(std::string_view text) {
  return text.size() == 3 && text.find_first_not_of("01234567") == std::string_view::npos && text[0] < '4';
}

}  // namespace

std::string decode_mount_text(std::string_view text) {
  std::string decoded;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto digits = text.substr(at + 1, 3);
    const bool octal = text[at] == '\\' && is_octal(digits);
    decoded += octal ? static_cast<char>((digits[0] - '0') * 64 + (digits[1] - '0') * 8 + (digits[2] - '0'))
                     : text[at];
    if (octal) at += 3;
  }
  return decoded;
}

std::optional<MountRow> parse_mount_row(std::string_view line) {
  // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
  std::array<std::string_view, 6> head;
  for (auto& field : head) field = take_field(line, ' ');
  std::string_view numbers = head[2];
  const auto id = parse_decimal(head[0]), parent = parse_decimal(head[1]);
  const auto major = parse_decimal(take_field(numbers, ':')), minor = parse_decimal(numbers);
  while (!line.empty() && take_field(line, ' ') != "-") {  // optional fields
  }
  const auto type = take_field(line, ' '), source = take_field(line, ' ');
  if (!id || !parent || !major || !minor || type.empty()) return std::nullopt;
  MountRow row{*id,
               *parent,
               ::makedev(static_cast<unsigned>(*major), static_cast<unsigned>(*minor)),
               decode_mount_text(head[3]),
               decode_mount_text(head[4]),
               decode_mount_text(type),
               decode_mount_text(source),
               {}};
  while (!line.empty()) row.super.emplace_back(decode_mount_text(take_field(line, ',')));
  return row;
}

std::vector<MountRow> read_mounts() {
  std::vector<MountRow> rows;
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);)
    if (auto row = parse_mount_row(line)) rows.push_back(*std::move(row));
  return rows;
}

std::uint64_t find_unique_mount_id(int fd) {
  constexpr unsigned kUniqueMountId = 0x4000;  // STATX_MNT_ID_UNIQUE of <linux/stat.h>
  struct statx info {};
  return ::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, kUniqueMountId, &info) == 0 &&
                 (info.stx_mask & kUniqueMountId) != 0
             ? info.stx_mnt_id
             : 0;
}

std::optional<std::uint64_t> find_mount_id(int fd) {
  struct statx info {};
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &info) == 0 &&
      (info.stx_mask & STATX_MNT_ID) != 0)
    return info.stx_mnt_id;
  // Before Linux 5.8.
  std::ifstream file("/proc/self/fdinfo/" + std::to_string(fd));
  for (std::string line; std::getline(file, line);) {
    std::string_view rest = line;
    if (take_field(rest, '\t') == "mnt_id:") return parse_decimal(rest);
  }
  return std::nullopt;
}

}  // namespace base
