#include "wedge/overlay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "formats/base/error.h"
#include "formats/base/file.h"

namespace wedge {
namespace {

constexpr std::uint64_t kLongestRun = std::uint64_t{256} << 20;  ///< bytes that a run is looked for in

}  // namespace

Overlay::Overlay(NbdDisk below, const std::string& directory)
    : below_(std::move(below)), written_(static_cast<std::size_t>((below_.size + kBlock - 1) / kBlock)) {
  file_ = base::UniqueFd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file_.get() < 0) base::throw_errno(directory + ": make a file for what is written", errno);
}

NbdDisk Overlay::disk() {
  return {below_.name, below_.size,
          [this](std::uint64_t at, base::MutableBytes to, const std::function<bool()>& is_over) {
            read(at, to, is_over);
          },
          [this](std::uint64_t at, const std::function<bool()>& is_over) { return run_at(at, is_over); },
          [this](std::uint64_t at, base::Bytes bytes, const std::function<bool()>& is_over) {
            write(at, bytes, is_over);
          }};
}

Overlay::Part Overlay::part_at(std::uint64_t at, std::uint64_t limit) {
  const std::lock_guard lock(mutex_);
  auto block = static_cast<std::size_t>(at / kBlock);
  const bool is_written = written_[block];
  const auto end = std::min(limit, below_.size);
  while (block * kBlock < end && written_[block] == is_written) ++block;
  return {std::min<std::uint64_t>(block * kBlock, end), is_written};
}

void Overlay::read(std::uint64_t at, base::MutableBytes to, const std::function<bool()>& is_over) {
  while (!to.empty()) {
    const auto part = part_at(at, at + to.size());
    const auto here = to.first(static_cast<std::size_t>(part.end - at));
    if (!part.is_written)
      below_.read(at, here, is_over);
    else if (!base::read_exact_at(file_.get(), at, here))
      throw base::Error(base::Category::local, "what was written is cut off");
    at += here.size();
    to = to.subspan(here.size());
  }
}

NbdDisk::Run Overlay::run_at(std::uint64_t at, const std::function<bool()>& is_over) {
  const auto part = part_at(at, at + kLongestRun);
  if (part.is_written) return {part.end, false};
  auto run = below_.run_at(at, is_over);
  run.end = std::min(run.end, part.end);
  return run;
}

void Overlay::write(std::uint64_t at, base::Bytes bytes, const std::function<bool()>& is_over) {
  if (bytes.empty()) return;
  const std::lock_guard one(writing_);
  const auto end = at + bytes.size();
  if (at % kBlock != 0) copy_up(at, is_over);
  if (end % kBlock != 0 && end != below_.size) copy_up(end, is_over);
  base::write_at(file_.get(), at, bytes);
  const std::lock_guard lock(mutex_);
  for (auto block = at / kBlock; block * kBlock < end; ++block)
    written_[static_cast<std::size_t>(block)] = true;
}

void Overlay::copy_up(std::uint64_t at, const std::function<bool()>& is_over) {
  const auto begin = at / kBlock * kBlock;
  if (part_at(begin, begin + 1).is_written) return;
  base::Buffer block(static_cast<std::size_t>(std::min(kBlock, below_.size - begin)));
  below_.read(begin, block, is_over);
  base::write_at(file_.get(), begin, block);
}

}  // namespace wedge
