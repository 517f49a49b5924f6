#include "formats/base/simd.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace base {
namespace {

Simd of_machine() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("gfni"))
    return Simd::avx512;
  if (__builtin_cpu_supports("avx2")) return Simd::avx2;
#endif
  return Simd::none;
}

Simd choose() noexcept {
  const char* const wish = std::getenv("SHRUB_SIMD");
  if (wish == nullptr) return of_machine();
  const std::string_view name = wish;
  return std::min(of_machine(), name == "none" ? Simd::none : name == "avx2" ? Simd::avx2 : Simd::avx512);
}

}  // namespace

Simd simd() noexcept {
  static const Simd chosen = choose();
  return chosen;
}

bool has_sha_instructions() noexcept {
#if defined(__x86_64__)
  constexpr unsigned kSha = 1U << 29;  // leaf 7, EBX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & kSha) != 0;
#else
  return false;
#endif
}

}  // namespace base
