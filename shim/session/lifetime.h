// Endings that other files of session/ need.
#pragma once

#include "shim/arena/slot.h"
#include "shim/session/local.h"

namespace inlay::shim {

// fd, probed from the kernel, names a session this process shares: it becomes a holder.
void join_session(Slot &slot, int fd) noexcept;
// The same for a slot claim_slot() found, which another process may be ending: false when it is over, or
// the slot is not the cookie's; the claim is given up then.
bool join_living(Slot &slot, int fd, std::uint64_t cookie) noexcept;
// fork: before it, every session is told of a child; in the child, fd's session takes it in.
void expect_child() noexcept;
void join_as_child(Slot &slot, int fd) noexcept;
// The same in a child of which no session was told: its parent may have gone on without it.
void join_late(Slot &slot, int fd) noexcept;
// The connection of this session is no more (connect failed, or AF_UNSPEC disconnected it): its
// descriptors live on as plain unconnected sockets.
void forget_session(Slot &slot, int fd) noexcept;
// As forget_session without a descriptor of this process.
void drop_session(Slot &slot) noexcept;
// The program closed fd while inlay keeps the connection: takes it out of every epoll set that may
// hold it, which would go on reporting it (watches.cc).
void leave_watches(Local &mine, int fd) noexcept;
// The helper has sent what a closed connection owed.
void finish_linger(Slot &slot) noexcept;
// How many closed connections of this process still owe bytes; a futex.
std::atomic<std::uint32_t> &lingering() noexcept;

// inlay's own descriptors: high numbers, close-on-exec, hidden from close and close_range.
// Moves `fd` there, or makes another name for it; -1 on failure (fd stays). What is new has the lowest
// free number of the program's until it is moved: only what lives long and cannot be had otherwise
// (boot/own_table.h).
int make_own(int fd) noexcept;
int copy_own(int fd) noexcept;
void close_own(int fd) noexcept;

}  // namespace inlay::shim
