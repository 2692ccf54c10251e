// The kernel's time, whatever is preloaded that tells the program another (libfaketime).
#pragma once

#include <ctime>

namespace inlay::shim::boot {

// At start, before any time is asked for.
void bind_clock() noexcept;

// clock_gettime(2), by the vDSO as in the C library: a seccomp filter need not allow it.
// Async-signal-safe.
int read_clock(clockid_t clock, timespec *time) noexcept;

}  // namespace inlay::shim::boot
