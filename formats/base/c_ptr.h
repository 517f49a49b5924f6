// Ownership of handles that C libraries hand out.
#pragma once

#include <memory>

namespace base {

template <auto Release>
struct CRelease {
  template <typename T>
  void operator()(T* handle) const noexcept {
    (void)Release(handle);
  }
};

/// Owns a C handle and releases it with `Release`; never null-checks beyond what unique_ptr does.
template <typename T, auto Release>
using CPtr = std::unique_ptr<T, CRelease<Release>>;

}  // namespace base
