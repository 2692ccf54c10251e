#include <ctime>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/handshake_task.h"
#include "shim/session/internal.h"

namespace inlay::shim {
namespace {

// More than a ClientHello and a certificate flight, and no more than half the smallest default
// receive buffer: a greater value would make the kernel grow the buffer (tcp_set_rcvlowat).
constexpr int kHidingLowWater = 32768;

}  // namespace

void hide_readiness(Slot &slot, int fd) noexcept {
  int low_water = kHidingLowWater;
  if (kernel::set_option(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water)) != 0) return;
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  Local &mine = local(slot);
  mine.acceptor = current_thread_id();
  mine.accepted_cpu_ns = std::int64_t{used.tv_sec} * 1'000'000'000 + used.tv_nsec;
  slot.hides_readiness.store(true, std::memory_order_release);
  notify_helper(slot);
}

void show_readiness(Slot &slot, int fd) noexcept {
  if (!slot.hides_readiness.exchange(false, std::memory_order_acq_rel)) return;
  refire_readable(fd);
  notify_helper(slot);  // it waits by epoll again
}

void quiet_readiness(Slot &slot, int fd) noexcept {
  if (slot.state.load(std::memory_order_acquire) != State::handshaking ||
      slot.hides_readiness.load(std::memory_order_acquire) ||
      slot.quieted.load(std::memory_order_acquire) ||
      slot.owner.load(std::memory_order_acquire) != this_process()) {
    return;
  }
  int low_water = kHidingLowWater;
  if (kernel::set_option(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water)) != 0) return;
  // In this order: whoever clears the flag undoes the option, and the helper looks at it once more.
  slot.quieted.store(true, std::memory_order_seq_cst);
  notify_helper(slot);
  // The handshake may have ended before the option was set; if it ends later, its end undoes it.
  if (slot.state.load(std::memory_order_seq_cst) != State::handshaking) unquiet_readiness(slot, fd);
}

void unquiet_readiness(Slot &slot, int fd) noexcept {
  if (slot.quieted.exchange(false, std::memory_order_acq_rel)) refire_readable(fd);
}

}  // namespace inlay::shim
