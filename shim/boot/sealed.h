// Memory that another process made and nobody can change any more: a sealed memfd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace inlay::shim::boot {

// Mapped read-only while it lives; empty when the descriptor is not that: no memfd sealed against
// everything, or not made by root or this user. `inode`: what it must have, 0 for any; it tells the
// memfd from another descriptor that took the number in a program between.
class SealedMemory {
 public:
  SealedMemory(int fd, std::uint64_t inode) noexcept;
  ~SealedMemory();
  SealedMemory(const SealedMemory &) = delete;
  SealedMemory &operator=(const SealedMemory &) = delete;

  std::span<const char> bytes() const noexcept { return {base_, size_}; }
  explicit operator bool() const noexcept { return base_ != nullptr; }

 private:
  const char *base_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace inlay::shim::boot
