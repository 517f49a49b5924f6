#include "vat/internal/far_server.h"

#include <algorithm>
#include <thread>

#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace vat::internal {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;

constexpr std::chrono::milliseconds kWait{100}, kSilence{10'000};
constexpr std::size_t kLimitedPart = std::size_t{64} << 10;  ///< bytes at a time where the rate is limited

}  // namespace

std::string format_root(const Root& root) {
  std::string text;
  for (const auto* id : {&root.manifest, &root.layout, &root.blob, &root.recipe})
    text += (text.empty() ? "" : " ") + (*id ? (*id)->hex() : std::string("-"));
  return text;
}

std::optional<Root> parse_root(std::string_view text, base::ObjectFormat format) {
  Root root;
  for (auto* id : {&root.manifest, &root.layout, &root.blob, &root.recipe}) {
    const auto field = base::take_field(text, ' ');
    if (field == "-") continue;
    *id = ObjectId::parse(format, field);
    if (!*id) return std::nullopt;
  }
  if (!text.empty() || (!root.manifest && !root.layout && !root.blob && !root.recipe)) return std::nullopt;
  return root;
}

FarServer::FarServer(const Host& host, base::ObjectFormat format, std::uint64_t rate,
                     std::function<bool()> is_over)
    : format_(format),
      rate_(rate),
      is_over_(std::move(is_over)),
      name_(host.name()),
      ssh_(host.ssh_command({"serve", "--stdio"})),
      channel_([this](base::MutableBytes bytes) { return read(bytes); },
               [this](base::Bytes bytes) { ssh_.write(base::as_chars(bytes)); }) {}

std::size_t FarServer::read(base::MutableBytes bytes) {
  if (rate_ > 0) bytes = bytes.subspan(0, std::min(bytes.size(), kLimitedPart));
  for (auto waited = kWait; !ssh_.wait_readable(kWait); waited += kWait)
    if (is_over_() || waited > kSilence) throw Error(Category::network, name_ + ": vat serve: no answer");
  const auto count = ssh_.read_some(bytes);
  if (count == 0) {
    const auto said = ssh_.errors();
    throw Error(Category::network,
                name_ + ": vat serve: " + (said.empty() ? "ended early" : said.substr(0, said.find('\n'))));
  }
  received_ += count;
  if (rate_ > 0) {
    const std::chrono::duration<double> due(static_cast<double>(received_) / static_cast<double>(rate_));
    std::this_thread::sleep_until(begun_ + std::chrono::duration_cast<Clock::duration>(due));
  }
  return count;
}

FarServer::~FarServer() {
  ssh_.kill();
}

std::unique_ptr<FarServer> FarServer::start(const Host& host, base::ObjectFormat format, std::uint64_t rate,
                                            std::function<bool()> is_over) {
  if (host.ssh_command({}).empty()) return nullptr;
  try {
    auto server = std::unique_ptr<FarServer>(new FarServer(host, format, rate, std::move(is_over)));
    const auto greeting = server->channel_.read_line();
    if (greeting != kGreeting + std::string(base::to_string(format))) return nullptr;
    return server;
  } catch (const Error& error) {
    if (error.category() == Category::internal) throw;
    return nullptr;  // files will do
  }
}

std::unique_ptr<formats::DeltaReader> FarServer::want(const Root& root, const std::optional<Root>& base) {
  channel_.write_line("want " + format_root(root));
  if (base) channel_.write_line("have " + format_root(*base));
  channel_.write_line("");
  const auto answer = channel_.read_line();
  if (answer == "absent") return nullptr;
  to_ = root.id();
  from_ = base && answer == "base 0" ? base->id() : to_;
  return read_delta();
}

std::unique_ptr<formats::DeltaReader> FarServer::want_data(const std::vector<bool>& wanted) {
  base::Buffer bits((wanted.size() + 7) / 8);
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (wanted[i]) bits[i / 8] |= std::byte{1} << (i % 8);
  channel_.write_block(bits);
  channel_.end_blocks();
  return bits.empty() ? nullptr : read_delta();
}

std::unique_ptr<formats::DeltaReader> FarServer::read_delta() {
  return std::make_unique<formats::DeltaReader>(format_, from_, to_,
                                                [this](base::Buffer& to) { return channel_.read_block(to); });
}

}  // namespace vat::internal
