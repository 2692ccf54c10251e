// The descriptor table: one atomic word per descriptor number, a cache of kernel truth. `unknown`
// is probed lazily (SO_DOMAIN, SO_TYPE, SO_COOKIE). Every hook that creates a descriptor resets its
// word. The table is one reserved mapping: no allocation, no lock; safe in signal handlers, in a
// vfork child (which can only demote to unknown) and after fork.
#pragma once

#include <atomic>
#include <cstdint>

namespace inlay::shim {

struct Slot;

// A word: bit 0 set = managed, the address of the session's slot above it; bit 1 set = settled without
// a session, and the value says why; any other is to be looked at.
inline constexpr std::uint64_t kUnknown = 0;    // nobody looked yet: probe_descriptor() decides
inline constexpr std::uint64_t kManagedBit = 1;
inline constexpr std::uint64_t kSettledBit = 2;
inline constexpr std::uint64_t kUnmanaged = 2;  // not a stream socket of AF_INET or AF_INET6
inline constexpr std::uint64_t kSocket = 4;     // such a socket, without a connection inlay knows of;
                                                // looked at again by every call but accept()
inline constexpr std::uint64_t kPlain = 6;      // connected, in the clear by policy
inline constexpr std::uint64_t kFile = 8;       // free, or what open() or another call without a hook put
                                                // there: as kUnknown, but to close it needs no look
inline constexpr std::uint64_t kOwn = 10;       // inlay's own, not the program's

// fs.nr_open as the kernel has it by default. Of a number at or above it nothing can be kept: it never
// names a session, and a connection that may not be in the clear is refused there.
inline constexpr unsigned kDescriptorLimit = 1u << 20;

// Reserved by boot before any hook uses it; null before, and for ever when there is no memory for
// it.
extern std::atomic<std::uint64_t> *g_descriptor_words;

inline bool beyond_table(int fd) noexcept {
  return fd >= 0 &&
         (static_cast<unsigned>(fd) >= kDescriptorLimit || g_descriptor_words == nullptr);
}

// The slow path of managed(): probes an unknown descriptor, or numbers beyond the table. Preserves
// errno.
Slot *probe_descriptor(int fd) noexcept;

// The session of a managed descriptor, else null. An unmanaged descriptor costs one load and a
// branch.
inline Slot *managed(int fd) noexcept {
  if (static_cast<unsigned>(fd) < kDescriptorLimit && g_descriptor_words != nullptr) [[likely]] {
    std::uint64_t word = g_descriptor_words[fd].load(std::memory_order_acquire);
    if ((word & kManagedBit) != 0) return reinterpret_cast<Slot *>(word & ~kManagedBit);
    if ((word & kSettledBit) != 0) [[likely]] return nullptr;
  }
  return probe_descriptor(fd);
}

// Known not to be managed. Where managed() costs the caller registers that it must save first.
inline bool settled_unmanaged(int fd) noexcept {
  return static_cast<unsigned>(fd) < kDescriptorLimit && g_descriptor_words != nullptr &&
         (g_descriptor_words[fd].load(std::memory_order_acquire) & kSettledBit) != 0;
}

// A hook created this number (socket, accept, dup, recvmsg, ...): forget what was known of it.
void forget_descriptor(int fd) noexcept;
// A number without a session is closed, or its next owner is another file. In a vfork child as well, where
// the parent still has it: only what is known to be no socket becomes kFile.
void forget_file(int fd) noexcept;

// The word of `fd`, kUnknown beyond the table; and its replacement (ignored beyond the table).
std::uint64_t descriptor_word(int fd) noexcept;
void set_descriptor_word(int fd, std::uint64_t word) noexcept;
bool replace_descriptor_word(int fd, std::uint64_t from, std::uint64_t to) noexcept;
// No number above it has ever had a word but kUnknown; -1 when none has.
int highest_descriptor() noexcept;
inline std::uint64_t managed_word(const Slot *slot) noexcept {
  return reinterpret_cast<std::uint64_t>(slot) | kManagedBit;
}

// False once the number is closed or names something else.
inline bool still_names(int fd, const Slot *slot) noexcept {
  return beyond_table(fd) || descriptor_word(fd) == managed_word(slot);
}

// Maps the table. False when the kernel has no room for it.
bool make_descriptor_table() noexcept;

}  // namespace inlay::shim
