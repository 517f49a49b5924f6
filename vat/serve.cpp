#include "vat/serve.h"

#include <optional>
#include <string>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/numbers.h"
#include "vat/internal/channel.h"
#include "vat/internal/delta_maker.h"
#include "vat/internal/far_server.h"
#include "vat/internal/vat_impl.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using internal::DeltaMaker;
using internal::WireChannel;

constexpr int kLevel = 3;  ///< of zstd: quicker than most lines
constexpr std::size_t kMaxHaves = 64;
constexpr std::uint64_t kMaxBits = std::uint64_t{64} << 20;  ///< bytes of them: half a thousand million blobs

class Server {
 public:
  Server(Vat& vat, WireChannel& channel) : vat_(vat), channel_(channel) {}

  /// False when there is no further request.
  bool answer() {
    const auto first = channel_.read_line();
    if (!first) return false;
    const auto root = parse(*first, "want ");
    std::vector<Root> haves;
    for (auto line = channel_.read_line(); line != ""; line = channel_.read_line()) {
      if (!line || haves.size() == kMaxHaves) throw Error(Category::corrupt, "no request");
      haves.push_back(parse(*line, "have "));
    }
    const Reading reading(vat_.impl());
    if (!is_here(root)) {
      channel_.write_line("absent");
      return true;
    }
    std::size_t base = 0;
    while (base < haves.size() && !(is_like(haves[base], root) && is_here(haves[base]))) ++base;
    const bool has_base = base < haves.size();
    DeltaMaker maker(vat_, has_base ? std::optional(haves[base]) : std::nullopt, root, kLevel);
    channel_.write_line("base " + (has_base ? std::to_string(base) : std::string("-")));
    const auto block = [this](base::Bytes bytes) { channel_.write_block(bytes); };
    (void)maker.write(DeltaMaker::Part::texts, {}, block);
    channel_.end_blocks();

    base::Buffer bits;
    while (channel_.read_block(bits))
      if (bits.size() > kMaxBits) throw Error(Category::corrupt, "no request");
    if (bits.empty()) return true;
    const auto is_wanted = [&](std::uint64_t number) {
      return number / 8 < bits.size() &&
             (std::to_integer<unsigned>(bits[static_cast<std::size_t>(number / 8)]) >> (number % 8) & 1U) !=
                 0;
    };
    (void)maker.write(DeltaMaker::Part::data, is_wanted, block);
    channel_.end_blocks();
    return true;
  }

 private:
  [[nodiscard]] Root parse(std::string_view line, std::string_view verb) const {
    const auto root = line.starts_with(verb)
                          ? internal::parse_root(line.substr(verb.size()), vat_.object_format())
                          : std::nullopt;
    if (!root) throw Error(Category::corrupt, "no request");
    return *root;
  }
  [[nodiscard]] bool is_here(const Root& root) {
    for (const auto* id : {&root.manifest, &root.layout, &root.recipe})
      if (*id && !vat_.find(**id)) return false;
    return root.manifest || root.layout || root.recipe || vat_.find(*root.blob);
  }
  static bool is_like(const Root& a, const Root& b) {
    return a.manifest.has_value() == b.manifest.has_value() && a.id() != b.id();
  }

  Vat& vat_;
  WireChannel& channel_;
};

}  // namespace

void serve(Vat& vat, const std::function<std::size_t(base::MutableBytes)>& read,
           const base::ByteSink& write) {
  WireChannel channel(read, write);
  channel.write_line(internal::FarServer::kGreeting + std::string(base::to_string(vat.object_format())));
  Server server(vat, channel);
  while (server.answer()) {
  }
}

}  // namespace vat
