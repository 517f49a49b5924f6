#include "formats/map/map.h"

#include <algorithm>

#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "formats/compression/decoder.h"
#include "formats/compression/zstd.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Category::refused, "map: " + what);
}

std::string header(base::ObjectFormat format, const base::ObjectId& root) {
  return "map 1 " + std::string(base::to_string(format)) + " " + root.hex();
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

MapWriter::MapWriter(base::ObjectFormat format, const base::ObjectId& root)
    : text_(header(format, root) + "\n") {}

void MapWriter::add(const std::string& pack, const GroupPlace& group, std::uint32_t position) {
  if (run_ && run_->pack == pack && run_->group.offset == group.offset) {
    if (position == run_->first + run_->count) {
      ++run_->count;
      return;
    }
    if (position >= run_->first && position < run_->first + run_->count) return;  // there already
  }
  flush();
  run_ = MapRun{pack, group, position, 1};
}

void MapWriter::flush() {
  if (!run_) return;
  const auto known = std::find(packs_.begin(), packs_.end(), run_->pack);
  const auto number = known - packs_.begin();
  if (known == packs_.end()) {
    packs_.push_back(run_->pack);
    text_ += "pack " + run_->pack + "\n";
  }
  for (const std::uint64_t value : {static_cast<std::uint64_t>(number), run_->group.offset,
                                    std::uint64_t{run_->group.size}, std::uint64_t{run_->first}})
    text_ += std::to_string(value) + " ";
  text_ += std::to_string(run_->count) + "\n";
  run_.reset();
}

base::Buffer MapWriter::finish() {
  flush();
  base::Buffer file;
  (void)ZstdCompressor().compress(base::as_bytes(text_), file);
  return file;
}

void read_map(base::Bytes file, base::ObjectFormat format, const base::ObjectId& root,
              const std::function<void(const MapRun&)>& visit) {
  std::vector<std::string> packs;
  bool begun = false;
  Lines lines([&](std::string_view line) {
    if (!begun) {
      if (line != header(format, root)) refuse("not the map of that root");
      begun = true;
    } else if (line.starts_with("pack ")) {
      line.remove_prefix(5);
      if (line.size() != 64 || !base::from_hex(line)) refuse("bad pack name");
      packs.emplace_back(line);
    } else {
      MapRun run;
      const auto pack = take_number(line);
      const auto offset = base::parse_decimal(base::take_field(line, ' '));
      if (pack >= packs.size() || !offset) refuse("bad place");
      run.pack = packs[pack];
      run.group = {*offset, take_number(line)};
      run.first = take_number(line);
      run.count = take_number(line);
      if (!line.empty() || run.count == 0 || run.count > kMaxGroupBlobs || run.first > kMaxGroupBlobs)
        refuse("bad run");
      visit(run);
    }
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
}

}  // namespace formats
