#include "formats/tar/pax_filter.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>

#include "formats/base/error.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr std::uint64_t kMaxRecords = std::uint64_t{1} << 20;  ///< bytes of one header's

std::uint64_t filled_up(std::uint64_t size) {
  return (size + kTarBlock - 1) / kTarBlock * kTarBlock;
}

std::string text_of(const TarHeader& header) {
  return std::string(base::as_chars(header));
}

/// "LENGTH KEY=VALUE\n", where LENGTH counts itself.
std::string record_of(const std::string& key, const std::string& value) {
  const auto rest = " " + key + "=" + value + "\n";
  auto length = rest.size() + 1;
  while (std::to_string(length).size() + rest.size() != length)
    length = std::to_string(length).size() + rest.size();
  return std::to_string(length) + rest;
}

/// -0.5: libarchive would lose the sign.
bool is_before_epoch(const std::string& time) {
  return time.starts_with("-0.") && time.find_first_of("123456789") != std::string::npos;
}

std::string extended_header(const std::string& records) {
  TarHeader header{};
  auto* at = reinterpret_cast<char*>(header.data());
  const auto put = [&](std::size_t offset, std::string_view text) {
    std::memcpy(at + offset, text.data(), text.size());
  };
  std::array<char, 32> number{};
  put(0, "PaxHeader/member");
  put(100, "0000644");
  (void)std::snprintf(number.data(), number.size(), "%011lo", static_cast<unsigned long>(records.size()));
  put(124, number.data());
  put(136, "00000000000");
  put(148, "        ");
  put(156, "x");
  put(257, std::string_view("ustar\0"
                            "00",
                            8));
  unsigned sum = 0;
  for (const auto byte : header) sum += std::to_integer<unsigned>(byte);
  (void)std::snprintf(number.data(), number.size(), "%06o", sum);
  put(148, std::string_view(number.data(), 7));
  return text_of(header) + records + std::string(filled_up(records.size()) - records.size(), '\0');
}

}  // namespace

std::size_t PaxFilter::operator()(base::MutableBytes to) {
  std::size_t done = 0;
  while (done < to.size()) {
    auto room = to.subspan(done);
    if (ready_at_ < ready_.size()) {
      const auto count = std::min(room.size(), ready_.size() - ready_at_);
      std::memcpy(room.data(), ready_.data() + ready_at_, count);
      ready_at_ += count;
      done += count;
      continue;
    }
    if (!is_passing_all_ && passing_ == 0) {
      take_header();
      continue;
    }
    if (!is_passing_all_)
      room = room.first(static_cast<std::size_t>(std::min<std::uint64_t>(passing_, room.size())));
    const auto count = source_(room);
    if (count == 0) return done;
    if (!is_passing_all_) passing_ -= count;
    done += count;
  }
  return done;
}

std::string PaxFilter::read_exactly(std::uint64_t size) {
  std::string text(static_cast<std::size_t>(size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const auto count = source_({reinterpret_cast<std::byte*>(text.data()) + done, text.size() - done});
    if (count == 0) break;
    done += count;
  }
  text.resize(done);
  return text;
}

void PaxFilter::take_header() {
  ready_.clear();
  ready_at_ = 0;
  const auto block = read_exactly(kTarBlock);
  TarHeader header{};
  std::memcpy(header.data(), block.data(), block.size());
  const auto size = tar_size(header);
  if (block.size() < kTarBlock || is_zero_block(header) || !has_right_sum(header) || !size) {
    // The end, or no tar: whoever reads it says so.
    ready_ = (extended_ ? extended_->bytes : std::string()) + block;
    is_passing_all_ = true;
    return;
  }
  switch (tar_type(header)) {
    case 'g':
      return take_global(header, *size);
    case 'x':
      return take_extended(header, *size);
    case 'L':
    case 'K':
      ready_ = text_of(header);
      passing_ = filled_up(*size);
      return;
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
      if (*size != 0) return give_up(header);
      ready_ = preface() + text_of(header);
      return;
    case '0':
      ready_ = preface() + text_of(header);
      passing_ = filled_up(*size);
      return;
    default:
      return give_up(header);
  }
}

void PaxFilter::take_global(const TarHeader& header, std::uint64_t size) {
  if (size > kMaxRecords) throw Error(Category::refused, "tar: a global header of more than 1 MiB");
  const auto data = read_exactly(filled_up(size));
  bool counts = false, moves = false;
  const auto sound =
      read_pax_records(std::string_view(data).substr(0, std::min<std::size_t>(size, data.size())),
                       [&](std::string_view key, std::string_view value) {
                         if (key == "comment") return;
                         counts = true;
                         moves = moves || key == "size" || key.starts_with("GNU.sparse");
                         if (value.empty())
                           global_.erase(std::string(key));
                         else
                           global_[std::string(key)] = value;
                       });
  if (!sound) throw Error(Category::refused, "tar: a malformed global header");
  if (moves) throw Error(Category::refused, "tar: a global header that gives sizes");
  if (!counts) ready_ = text_of(header) + data;
}

void PaxFilter::take_extended(const TarHeader& header, std::uint64_t size) {
  if (extended_ || size > kMaxRecords) return give_up(header);
  Extended extended;
  const auto data = read_exactly(filled_up(size));
  extended.bytes = text_of(header) + data;
  bool moves = false;
  const auto sound =
      read_pax_records(std::string_view(data).substr(0, std::min<std::size_t>(size, data.size())),
                       [&](std::string_view key, std::string_view value) {
                         moves = moves || key == "size" || key.starts_with("GNU.sparse");
                         extended.records.emplace_back(key, value);
                       });
  if (sound && !moves) {
    extended_ = std::move(extended);
    return;
  }
  if (!global_.empty())
    throw Error(Category::refused, "tar: a global header, and a member in a form that is not read with one");
  ready_ = extended.bytes;
  is_passing_all_ = true;
}

std::string PaxFilter::preface() {
  const auto extended = std::exchange(extended_, std::nullopt);
  Records records;
  for (const auto& [key, value] : global_)
    if (!extended || std::none_of(extended->records.begin(), extended->records.end(),
                                  [&, &name = key](const auto& record) { return record.first == name; }))
      records.emplace_back(key, value);
  bool is_changed = !records.empty();
  if (extended)
    for (const auto& record : extended->records) {
      // An empty value takes back what a global header says.
      if (record.second.empty() && global_.contains(record.first))
        is_changed = true;
      else
        records.push_back(record);
    }
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (records[i].first != "mtime" || !is_before_epoch(records[i].second)) continue;
    is_changed = true;
    records[i].second.erase(0, 1);
    records.emplace_back(std::string("SCHILY.xattr.") + kBeforeEpoch, "1");
  }
  if (!is_changed) return extended ? extended->bytes : std::string();
  std::string text;
  for (const auto& [key, value] : records) text += record_of(key, value);
  return text.empty() ? std::string() : extended_header(text);
}

void PaxFilter::give_up(const TarHeader& header) {
  if (!global_.empty())
    throw Error(Category::refused, "tar: a global header, and a member in a form that is not read with one");
  ready_ = (extended_ ? extended_->bytes : std::string()) + text_of(header);
  extended_.reset();
  is_passing_all_ = true;
}

}  // namespace formats
