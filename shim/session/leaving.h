// A number whose session has ended, and which the kernel is about to close or to give to another file
// (dup2). Whoever uses it meanwhile waits for that: nothing may go in the clear, and to the kernel there
// is no such moment.
#pragma once

#include "shim/arena/slot.h"

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

// How often one call follows its number from session to session.
inline constexpr int kMostArrivals = 16;

}  // namespace inlay::shim
