// Text in memory that others may read while it is set: they see none of it, or all. One writer at a
// time. Async-signal-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <string_view>

namespace inlay::shim {

// Truncated to `size`, terminating null included. What was there may be read as none meanwhile.
inline void publish(char *to, std::size_t size, std::string_view text) noexcept {
  text = text.substr(0, size - 1);
  if (std::string_view(to) == text) return;
  // The first byte says whether there is any.
  std::atomic_ref<char>(to[0]).store('\0', std::memory_order_release);
  if (text.empty()) return;
  for (std::size_t i = 1; i <= text.size(); ++i) {
    std::atomic_ref<char>(to[i]).store(i < text.size() ? text[i] : '\0', std::memory_order_relaxed);
  }
  std::atomic_ref<char>(to[0]).store(text[0], std::memory_order_release);
}

inline const char *published(const char *text) noexcept {
  std::atomic_ref<char> first(const_cast<char &>(text[0]));
  return first.load(std::memory_order_acquire) == '\0' ? "" : text;
}

}  // namespace inlay::shim
