#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/hooks/next.h"
#include "shim/session/cancel.h"
#include "shim/session/helper.h"
#include "shim/session/internal.h"

namespace inlay::shim {
namespace {

// How often a waiter looks whether the process that does the handshake still lives.
constexpr long kOwnerCheckNs = 100'000'000;

bool owner_died(const Slot &slot) noexcept {
  Participant owner = slot.owner.load(std::memory_order_relaxed);
  return owner != 0 && owner != this_process() && !lives(&slot, owner);
}

struct Wait {
  Slot *slot;
  State seen;
  timespec *bound;
  int cancel_type = 0;
};

// FUTEX_WAIT as a cancellation point, which no futex call of the C library is: the request is acted
// on inside the C library's syscall().
long wait_on_state(Wait *wait) {
  const int saved = errno;
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &wait->cancel_type);
  long slept = next.syscall(SYS_futex, &wait->slot->state, FUTEX_WAIT,
                            static_cast<std::uint32_t>(wait->seen), wait->bound, nullptr, 0);
  if (slept < 0) slept = -errno;
  pthread_setcanceltype(wait->cancel_type, nullptr);
  errno = saved;
  return slept;
}
void leave_waiters(Wait *wait) { wait->slot->waiters.fetch_sub(1, std::memory_order_seq_cst); }

}  // namespace

bool connecting_failed(int fd) noexcept {
  tcp_info info{};
  socklen_t length = sizeof(info);
  return kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
         info.tcpi_state == TCP_CLOSE;
}

int take_socket_error(int fd) noexcept {
  int error = 0;
  socklen_t length = sizeof(error);
  kernel::get_option(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

std::int64_t time_left(int fd, int option, std::int64_t since) noexcept {
  timeval limit{};
  socklen_t size = sizeof(limit);
  if (kernel::get_option(fd, SOL_SOCKET, option, &limit, &size) != 0) return -1;
  std::int64_t whole =
      std::int64_t{limit.tv_sec} * 1'000'000'000 + std::int64_t{limit.tv_usec} * 1000;
  return whole == 0 ? -1 : std::max<std::int64_t>(whole - (monotonic_ns() - since), 0);
}

Waited wait_for_session(Slot &slot, int fd, int flags, int option) {
  State state = slot.state.load(std::memory_order_acquire);
  if (state == State::established || state == State::failed || state == State::free) {
    return Waited::changed;
  }
  if ((flags & MSG_DONTWAIT) != 0 || (kernel::call(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK) != 0) {
    return Waited::would_block;
  }
  show_readiness(slot, fd);
  std::int64_t now = monotonic_ns();
  std::int64_t whole = time_left(fd, option, now);
  std::int64_t end = whole < 0 ? 0 : now + whole;
  Waited result = Waited::changed;
  slot.waiters.fetch_add(1, std::memory_order_seq_cst);
  while (slot.state.load(std::memory_order_acquire) == state) {
    bool mine = slot.owner.load(std::memory_order_relaxed) == this_process();
    timespec timeout{};
    timespec *bound = nullptr;
    // Nobody wakes a waiter whose TCP attempt failed: the state stays, for another connect().
    bool watched = !mine || state == State::connecting;
    if (state == State::connecting && connecting_failed(fd)) break;
    // Without a bound the kernel restarts the wait for SA_RESTART handlers, as recv would.
    if (end != 0 || watched) {
      std::int64_t left = end != 0 ? end - monotonic_ns() : kOwnerCheckNs;
      if (left <= 0) {
        result = Waited::timed_out;
        break;
      }
      if (watched && left > kOwnerCheckNs) left = kOwnerCheckNs;
      timeout = {left / 1'000'000'000, left % 1'000'000'000};
      bound = &timeout;
    }
    Wait wait{&slot, state, bound};
    long slept = cancellable(wait_on_state, leave_waiters, &wait);
    if (slept == -EINTR) {
      result = Waited::interrupted;
      break;
    }
    if (slept == -ETIMEDOUT && owner_died(slot)) {
      slot.waiters.fetch_sub(1, std::memory_order_seq_cst);
      poison(slot, fd);
      return Waited::changed;
    }
  }
  slot.waiters.fetch_sub(1, std::memory_order_seq_cst);
  return result;
}

}  // namespace inlay::shim
