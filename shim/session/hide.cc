#include <ctime>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
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

}  // namespace inlay::shim
