// A call that sleeps on a connection while another thread closes the descriptor it was made with.
// To the kernel the call has the file until it returns; so the session stays until then, on a
// descriptor of inlay's own (lifetime.cc), and the call goes on with a copy of that.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstdint>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/local.h"

namespace inlay::shim {

// One call. Plain data: nothing to destroy in the frames of a thread that is cancelled.
struct UnderWay {
  int fd;
  std::uint32_t generation;
  bool counted = false;  // among Local::calls
  bool copied = false;   // fd is inlay's own, this call's alone

  UnderWay(const Slot &slot, int number) noexcept
      : fd(number), generation(slot.generation.load(std::memory_order_relaxed)) {}
};

// In a vfork child, whose numbers the table of words does not know.
inline bool names_in_vfork_child(const Slot &slot, int fd) noexcept {
  if (!in_foreign_process()) return false;
  std::uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  return kernel::get_option(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 &&
         cookie == slot.cookie.load(std::memory_order_acquire);
}

// The descriptor names the session the call was made on, as far as this process knows: the slot may
// have the next one meanwhile, at the same number.
inline bool names(const Slot &slot, const UnderWay &call) noexcept {
  return slot.generation.load(std::memory_order_relaxed) == call.generation &&
         (call.copied || still_names(call.fd, &slot) || names_in_vfork_child(slot, call.fd));
}

void count(Slot &slot, UnderWay &call) noexcept;
bool follow(Slot &slot, UnderWay &call) noexcept;
void end(Slot &slot, UnderWay &call) noexcept;

// Before the call may sleep.
inline void may_sleep(Slot &slot, UnderWay &call) noexcept {
  if (!call.counted) count(slot, call);
}
// Whether there still is something to go on with: false when it has been closed.
inline bool goes_on(Slot &slot, UnderWay &call) noexcept {
  if (slot.generation.load(std::memory_order_relaxed) != call.generation ||
      slot.state.load(std::memory_order_acquire) == State::free) {
    return false;
  }
  return names(slot, call) || follow(slot, call);
}
// The call returns. Preserves errno.
inline void leave(Slot &slot, UnderWay &call) noexcept {
  if (call.counted) end(slot, call);
}

// The number is about to be another file's: threads of this process that are on their way to sleep in a
// call on it get there first, as they would have in the kernel. No lock may be held.
void let_sleep(Slot &slot) noexcept;

// The program closes `fd`, its last descriptor of the session: whether a call is under way on it.
// life_lock held. What is counted may be too much, by threads that were cancelled or jumped away.
bool is_called(Slot &slot, int fd) noexcept;
// The same later on, of what is_called() kept; looks at what the process's threads do.
bool is_still_called(Slot &slot) noexcept;
// The process ends, its calls with it.
void forget_calls() noexcept;

}  // namespace inlay::shim
