// What inlay opens for a moment takes the lowest free descriptor number of the process, and the
// program, in another thread, would be given the next one. So it is opened elsewhere: in a table of
// descriptors of its own, by a thread that lives as long as the call (clone(2) without the C
// library's knowledge, as posix_spawn does it; close_range(2) with CLOSE_RANGE_UNSHARE gives it an
// empty table).
#pragma once

#include <type_traits>

namespace inlay::shim::boot {

// Runs `act` while this thread waits. In an own table where there may be other threads and the
// kernel has room for one more, else here. `act` makes direct system calls only (kernel.h) or such
// calls of the C library as have no hook, takes no lock of inlay's but the heap's and needs little
// stack. What is thread-local is the caller's, but the thread is another. May be called in signal handlers.
void in_own_table(void (*act)(void *), void *argument) noexcept;

template <typename Act>
void in_own_table(Act &&act) noexcept {
  using Plain = std::remove_reference_t<Act>;
  in_own_table([](void *one) { (*static_cast<Plain *>(one))(); },
               const_cast<std::remove_const_t<Plain> *>(&act));
}

}  // namespace inlay::shim::boot
