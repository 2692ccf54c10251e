// Whether the program put itself under a seccomp filter: from then on no new kind of system call
// and no new thread is safe.
#pragma once

#include <atomic>

namespace inlay::shim::boot {

inline constinit std::atomic<bool> g_sandboxed{false};

inline void note_sandbox() noexcept { g_sandboxed.store(true, std::memory_order_relaxed); }
inline bool sandboxed() noexcept { return g_sandboxed.load(std::memory_order_relaxed); }

}  // namespace inlay::shim::boot
