// A number whose session has ended, and which the kernel is about to close or to give to another
// file (dup2). Whoever uses it meanwhile waits for that: nothing may go in the clear, and to the
// kernel there is no such moment.
#pragma once

#include <cerrno>

#include "shim/arena/slot.h"
#include "shim/session/internal.h"
#include "shim/session/under_way.h"

namespace inlay::shim {

// What such a number names. Always failed.
Slot &leaving_session() noexcept;
// Stands for what has no session of its own and must fail: every call on it does.
Slot &closing_session() noexcept;
bool is_leaving(const Slot &slot) noexcept;
// One of the two above: no slot of an arena.
bool is_closing(const Slot &slot) noexcept;

// By the thread that is about to close or replace fd, and when it has.
void leaves(int fd) noexcept;
void has_left(int fd) noexcept;

// The session that a call on fd is for when the one it began with has gone, null where it is the
// kernel's; waits for close() and dup2(). Otherwise -1's errno.
struct Arrival {
  Slot *slot = nullptr;
  int error = 0;
};
Arrival arrival_at(int fd) noexcept;

// A call on fd, which may be another file's since the hook looked at it: to the kernel the call
// begins there. `by_session(slot, call)` begins on a session; the other two where there is none.
template <typename BySession, typename Unconnected, typename ByKernel>
ssize_t on_number(Slot &slot, int fd, BySession by_session, Unconnected unconnected,
                  ByKernel by_kernel) {
  constexpr int kMostArrivals = 16;
  Slot *now = &slot;
  Arrival arrival;
  for (int arrivals = 0; arrivals < kMostArrivals && arrival.error == 0; ++arrivals) {
    if (now == nullptr) return by_kernel();
    if (is_unconnected(*now)) return unconnected();
    if (!is_leaving(*now)) {
      UnderWay call(*now, fd);
      ssize_t result = by_session(*now, call);
      if (result >= 0 || errno != EBADF || call.counted) return result;
    }
    arrival = arrival_at(fd);
    now = arrival.slot;
  }
  errno = arrival.error != 0 ? arrival.error : EBADF;
  return -1;
}

}  // namespace inlay::shim
