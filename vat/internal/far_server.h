// Whoever asks `vat serve` on another host. docs/formats/serve.md
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/object_id.h"
#include "formats/base/process.h"
#include "formats/delta/delta.h"
#include "vat/blob_source.h"
#include "vat/internal/channel.h"
#include "vat/internal/host.h"

namespace vat::internal {

/// As it stands in a request: ids or "-", manifest, layout, blob, recipe.
[[nodiscard]] std::string format_root(const Root& root);
/// nullopt if it is none.
[[nodiscard]] std::optional<Root> parse_root(std::string_view text, base::ObjectFormat format);

/// One thread at a time. Errors: network, with what the host said.
class FarServer {
 public:
  static constexpr const char* kGreeting = "vat 1 ";

  /// nullptr if nothing there answers as it should: no such program, another version, another object format.
  /// `rate`: bytes a second, 0: any. `is_over`: asked again and again while it waits; if so, it ends with an
  /// error.
  [[nodiscard]] static std::unique_ptr<FarServer> start(const Host& host, base::ObjectFormat format,
                                                        std::uint64_t rate, std::function<bool()> is_over);
  ~FarServer();
  FarServer(const FarServer&) = delete;
  FarServer& operator=(const FarServer&) = delete;

  /// Asks for a root. The reader gives its texts, those that `base` has left out. nullptr if it is not there.
  [[nodiscard]] std::unique_ptr<formats::DeltaReader> want(const Root& root, const std::optional<Root>& base);
  /// After all texts were read, and in any case: asks for data blobs by their number in the walk of the root.
  /// nullptr if that is none.
  [[nodiscard]] std::unique_ptr<formats::DeltaReader> want_data(const std::vector<bool>& wanted);
  /// Bytes so far.
  [[nodiscard]] std::uint64_t received() const noexcept { return received_; }

 private:
  FarServer(const Host& host, base::ObjectFormat format, std::uint64_t rate, std::function<bool()> is_over);
  std::unique_ptr<formats::DeltaReader> read_delta();
  std::size_t read(base::MutableBytes bytes);

  const base::ObjectFormat format_;
  const std::uint64_t rate_;
  const std::function<bool()> is_over_;
  std::string name_;
  base::Process ssh_;
  WireChannel channel_;
  const Clock::time_point begun_ = Clock::now();
  std::uint64_t received_ = 0;
  base::ObjectId from_, to_;
};

}  // namespace vat::internal
