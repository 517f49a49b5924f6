#include "chunker/chunker.h"

#include "chunker/internal/scan.h"
#include "formats/base/numbers.h"
#include "formats/base/simd.h"

namespace chunker {
namespace {

constexpr std::string_view kIdPrefix = "vg1:a=";

internal::FindCut fastest() noexcept {
  switch (base::simd()) {
    case base::Simd::avx512:
      return internal::find_avx512();
    case base::Simd::avx2:
      return internal::find_avx2();
    case base::Simd::none:
      break;
  }
  return internal::find_cut_portable;
}

}  // namespace

std::string Parameters::id() const {
  return std::string(kIdPrefix) + std::to_string(exponent);
}

Parameters make_parameters(int exponent) noexcept {
  const std::size_t average = std::size_t{1} << exponent;
  return {exponent,
          average / 4,
          average * 105 / 128,
          average * 4,
          std::uint64_t{1} << (72 - exponent),
          std::uint64_t{1} << (76 - exponent)};
}

std::optional<Parameters> find_parameters(std::string_view id) noexcept {
  if (!id.starts_with(kIdPrefix)) return std::nullopt;
  const auto exponent = base::parse_decimal(id.substr(kIdPrefix.size()));
  if (!exponent || *exponent < kMinExponent || *exponent > kMaxExponent) return std::nullopt;
  return make_parameters(static_cast<int>(*exponent));
}

std::size_t find_cut(const Parameters& parameters, base::Bytes rest) noexcept {
  static const internal::FindCut find = fastest();
  return find(parameters, rest);
}

}  // namespace chunker
