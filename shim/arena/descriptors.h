// The descriptor table: one atomic word per descriptor number, a cache of kernel truth. `unknown`
// is probed lazily (SO_DOMAIN, SO_TYPE, SO_COOKIE). Every hook that creates a descriptor resets its
// word. The table is one reserved mapping: no allocation, no lock; safe in signal handlers, in a
// vfork child (which can only demote to unknown) and after fork.
#pragma once

#include <atomic>
#include <cstdint>

namespace inlay::shim {

struct Slot;

// A word: a state in the low bits; for managed, the address of the session's slot above it.
enum class WordState : std::uint64_t {
  unknown = 0,    // nobody looked yet: probe() decides
  unmanaged = 1,  // not a socket inlay protects; nothing to do, ever, until the number is reused
  socket = 2,     // a TCP socket of AF_INET(6) that has no session (yet)
  managed = 3,
};

inline constexpr std::uint64_t kWordStateMask = 7;
inline constexpr unsigned kDescriptorLimit = 1u << 20;  // numbers at and above it: always probed

// Reserved by boot before any hook uses it; null before.
extern std::atomic<std::uint64_t> *g_descriptor_words;

// The slow path of managed(): probes an unknown descriptor, or numbers beyond the table. Preserves
// errno.
Slot *probe_descriptor(int fd) noexcept;

// The session of a managed descriptor, else null. An unmanaged descriptor costs one load and a
// branch.
inline Slot *managed(int fd) noexcept {
  if (static_cast<unsigned>(fd) < kDescriptorLimit && g_descriptor_words != nullptr) [[likely]] {
    std::uint64_t word =
        g_descriptor_words[fd].load(std::memory_order_acquire);
    if (word == static_cast<std::uint64_t>(WordState::unmanaged)) [[likely]] return nullptr;
    if ((word & kWordStateMask) == static_cast<std::uint64_t>(WordState::managed)) {
      return reinterpret_cast<Slot *>(word & ~kWordStateMask);
    }
  }
  return probe_descriptor(fd);
}

// A hook created this number (socket, accept, dup, recvmsg, ...): forget what was known of it.
void forget_descriptor(int fd) noexcept;

}  // namespace inlay::shim
