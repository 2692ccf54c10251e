// Addresses the program gives, which may be bad: the kernel's answer to those is EFAULT, not a
// signal.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace inlay::shim {

// Copies as much as can be read; returns how much that is.
std::size_t copy_in(void *to, const void *from, std::size_t length) noexcept;

// Asks the kernel about an address no program has but by mistake, or on purpose.
bool is_unmapped(const void *from) noexcept;

// Null and its like, and what is never a program's. Any other bad address ends the program, as it
// does in the C library: to ask the kernel about each would cost a system call a call.
inline bool is_bad_address(const void *from, std::size_t length) noexcept {
  constexpr std::uintptr_t kLowest = 0x10000;  // vm.mmap_min_addr; root may map below it
  constexpr std::uintptr_t kHighest = std::uintptr_t{1} << 47;
  auto at = reinterpret_cast<std::uintptr_t>(from);
  if (length == 0 || (at >= kLowest && at < kHighest)) [[likely]]
    return false;
  return is_unmapped(from);
}
inline bool has_bad_address(std::span<const iovec> parts) noexcept {
  if (is_bad_address(parts.data(), parts.size_bytes())) return true;
  for (const iovec &part : parts) {
    if (is_bad_address(part.iov_base, part.iov_len)) return true;
  }
  return false;
}

}  // namespace inlay::shim
