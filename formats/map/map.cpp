#include "formats/map/map.h"

#include <algorithm>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "formats/compression/decoder.h"
#include "formats/compression/zstd.h"

namespace formats {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;

constexpr std::array<std::string_view, kMapSections> kSectionNames = {"manifest", "layout", "recipes",
                                                                      "data"};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, "map: " + what);
}

std::string header(base::ObjectFormat format, const base::ObjectId& root) {
  return "map 2 " + std::string(base::to_string(format)) + " " + root.hex();
}

/// A number of at most 32 bits off the front of the line.
std::uint32_t take_number(std::string_view& line) {
  const auto value = base::parse_decimal(base::take_field(line, ' '));
  if (!value || *value > UINT32_MAX) refuse("bad number");
  return static_cast<std::uint32_t>(*value);
}

/// Splits decompressed text into lines.
class Lines {
 public:
  explicit Lines(std::function<void(std::string_view)> on_line) : on_line_(std::move(on_line)) {}
  void feed(std::string_view text) {
    while (!text.empty()) {
      const auto newline = text.find('\n');
      pending_ += text.substr(0, newline);
      if (pending_.size() > 200) refuse("line too long");
      if (newline == std::string_view::npos) return;
      on_line_(pending_);
      pending_.clear();
      text.remove_prefix(newline + 1);
    }
  }
  void finish() const {
    if (!pending_.empty()) refuse("cut off");
  }

 private:
  std::function<void(std::string_view)> on_line_;
  std::string pending_;
};

}  // namespace

MapWriter::MapWriter(base::ObjectFormat format, const base::ObjectId& root,
                     const std::optional<base::ObjectId>& detail)
    : head_(header(format, root) + " " + (detail ? detail->hex() : "-") + "\n") {}

void MapWriter::add(MapSection section, const std::string& pack, const GroupPlace& group,
                    std::uint32_t position) {
  auto& to = sections_[static_cast<std::size_t>(section)];
  if (to.run && to.run->pack == pack && to.run->group.offset == group.offset &&
      position == to.run->first + to.run->count) {
    ++to.run->count;
    return;
  }
  flush(to);
  to.run = MapRun{section, pack, group, position, 1};
}

void MapWriter::add_delta(const MapDelta& delta) {
  deltas_ += "delta " + delta.from.hex() + " " + std::to_string(delta.size) + " " +
             std::to_string(delta.missing) + "\n";
}

void MapWriter::add_absent(MapSection section) {
  auto& to = sections_[static_cast<std::size_t>(section)];
  if (!to.run || !to.run->pack.empty()) {
    flush(to);
    to.run = MapRun{section, {}, {}, 0, 0};
  }
  ++to.run->count;
}

void MapWriter::flush(Section& section) {
  if (!section.run) return;
  const auto run = *std::exchange(section.run, {});
  if (run.pack.empty()) {
    section.text += "- " + std::to_string(run.count) + "\n";
    return;
  }
  const auto known = std::find(packs_.begin(), packs_.end(), run.pack);
  const auto number = static_cast<std::uint64_t>(known - packs_.begin());
  if (known == packs_.end()) packs_.push_back(run.pack);
  for (const std::uint64_t value :
       {number, run.group.offset, std::uint64_t{run.group.size}, std::uint64_t{run.first}})
    section.text += std::to_string(value) + " ";
  section.text += std::to_string(run.count) + "\n";
}

base::Buffer MapWriter::finish() {
  std::string text = head_ + deltas_;
  for (auto& section : sections_) flush(section);
  for (const auto& pack : packs_) text += "pack " + pack + "\n";
  for (std::size_t i = 0; i < kMapSections; ++i)
    if (!sections_[i].text.empty()) text += std::string(kSectionNames[i]) + "\n" + sections_[i].text;
  base::Buffer file;
  (void)ZstdCompressor().compress(base::as_bytes(text), file);
  return file;
}

std::optional<base::ObjectId> read_map(base::Bytes file, base::ObjectFormat format,
                                       const base::ObjectId& root,
                                       const std::function<void(const MapRun&)>& visit,
                                       const std::function<void(const MapDelta&)>& on_delta) {
  std::vector<std::string> packs;
  std::optional<ObjectId> detail;
  bool begun = false;
  std::optional<std::size_t> section;
  Lines lines([&](std::string_view line) {
    if (!begun) {
      const auto wanted = header(format, root) + " ";
      if (line.starts_with("map ") && !line.starts_with("map 2 "))
        throw Error(Category::no_store, "map: of a version this program does not know");
      if (!line.starts_with(wanted)) refuse("not the map of that root");
      line.remove_prefix(wanted.size());
      if (line != "-") detail = ObjectId::parse(format, std::string(line));
      if (line != "-" && !detail) refuse("bad id");
      begun = true;
      return;
    }
    if (line.starts_with("delta ")) {
      line.remove_prefix(6);
      const auto from = ObjectId::parse(format, std::string(base::take_field(line, ' ')));
      const auto size = base::parse_decimal(base::take_field(line, ' '));
      const auto missing = base::parse_decimal(line);
      if (section || !packs.empty() || !from || !size || !missing) refuse("bad delta line");
      if (on_delta) on_delta({*from, *size, *missing});
      return;
    }
    if (line.starts_with("pack ")) {
      line.remove_prefix(5);
      if (section || line.size() != 64 || !base::from_hex(line)) refuse("bad pack line");
      packs.emplace_back(line);
      return;
    }
    if (const auto name = std::find(kSectionNames.begin(), kSectionNames.end(), line);
        name != kSectionNames.end()) {
      const auto next = static_cast<std::size_t>(name - kSectionNames.begin());
      if (section && next <= *section) refuse("sections out of order");
      section = next;
      return;
    }
    if (!section) refuse("a place in no section");
    MapRun run;
    run.section = static_cast<MapSection>(*section);
    if (line.starts_with("- ")) {
      line.remove_prefix(2);
      run.count = take_number(line);
      if (!line.empty() || run.count == 0) refuse("bad run");
      visit(run);
      return;
    }
    const auto pack = take_number(line);
    const auto offset = base::parse_decimal(base::take_field(line, ' '));
    if (pack >= packs.size() || !offset) refuse("bad place");
    run.pack = packs[pack];
    run.group = {*offset, take_number(line)};
    run.first = take_number(line);
    run.count = take_number(line);
    if (!line.empty() || run.count == 0 || run.count > kMaxGroupBlobs || run.first > kMaxGroupBlobs ||
        run.group.size > kMaxStoredGroup || run.group.offset > kMaxPackSize)
      refuse("bad run");
    visit(run);
  });
  std::size_t total = 0;
  const auto decoder = make_decoder(Codec::zstd, [&](base::MutableBytes buffer) {
    const std::size_t count = std::min(buffer.size(), file.size());
    std::copy_n(file.begin(), count, buffer.begin());
    file = file.subspan(count);
    return count;
  });
  base::Buffer buffer(std::size_t{64} << 10);
  while (const std::size_t count = decoder->read(buffer)) {
    total += count;
    if (total > kMaxMapText) refuse("larger than 1 GiB");
    lines.feed(base::as_chars(base::Bytes(buffer).subspan(0, count)));
  }
  lines.finish();
  if (!begun) refuse("empty");
  return detail;
}

}  // namespace formats
