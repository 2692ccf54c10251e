#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/time.h>

#include <cerrno>
#include <ctime>

#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/hooks/next.h"
#include "shim/session/internal.h"

namespace inlay::shim {
namespace {

// How often a waiter looks whether the process that does the handshake still lives.
constexpr long kOwnerCheckNs = 100'000'000;

std::int64_t now_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

bool owner_died(const Slot &slot) noexcept {
  std::uint32_t owner = slot.owner.load(std::memory_order_relaxed);
  return owner != 0 && owner != process_id() &&
         kernel::call(SYS_kill, static_cast<long>(owner), 0) == -ESRCH;
}

// FUTEX_WAIT as a cancellation point, which no futex call of the C library is. The request is acted
// on inside the C library's syscall(): an unwinding needs a call to leave this frame through.
long cancellable_wait(const std::atomic<State> &word, State seen, timespec *bound) {
  struct Asynchronous {
    int before;
    Asynchronous() { pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before); }
    ~Asynchronous() { pthread_setcanceltype(before, nullptr); }
  } asynchronous;
  const int saved = errno;
  long slept = next.syscall(SYS_futex, &word, FUTEX_WAIT, static_cast<std::uint32_t>(seen), bound,
                            nullptr, 0);
  if (slept < 0) slept = -errno;
  errno = saved;
  return slept;
}

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

Waited wait_for_session(Slot &slot, int fd, int flags, int option) {
  State state = slot.state.load(std::memory_order_acquire);
  if (state == State::established || state == State::failed || state == State::free) {
    return Waited::changed;
  }
  if ((flags & MSG_DONTWAIT) != 0 || (kernel::call(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK) != 0) {
    return Waited::would_block;
  }
  show_readiness(slot, fd);
  timeval limit{};
  socklen_t size = sizeof(limit);
  kernel::get_option(fd, SOL_SOCKET, option, &limit, &size);
  std::int64_t end = limit.tv_sec == 0 && limit.tv_usec == 0
                         ? 0
                         : now_ns() + std::int64_t{limit.tv_sec} * 1'000'000'000 +
                               std::int64_t{limit.tv_usec} * 1000;
  Waited result = Waited::changed;
  struct Counted {
    std::atomic<std::uint32_t> &waiters;
    explicit Counted(std::atomic<std::uint32_t> &count) : waiters(count) {
      waiters.fetch_add(1, std::memory_order_seq_cst);
    }
    ~Counted() { waiters.fetch_sub(1, std::memory_order_seq_cst); }
  } counted(slot.waiters);
  while (slot.state.load(std::memory_order_acquire) == state) {
    bool mine = slot.owner.load(std::memory_order_relaxed) == process_id();
    timespec timeout{};
    timespec *bound = nullptr;
    // Nobody wakes a waiter whose TCP attempt failed: the state stays, for another connect().
    bool watched = !mine || state == State::connecting;
    if (state == State::connecting && connecting_failed(fd)) break;
    // Without a bound the kernel restarts the wait for SA_RESTART handlers, as recv would.
    if (end != 0 || watched) {
      std::int64_t left = end != 0 ? end - now_ns() : kOwnerCheckNs;
      if (left <= 0) {
        result = Waited::timed_out;
        break;
      }
      if (watched && left > kOwnerCheckNs) left = kOwnerCheckNs;
      timeout = {left / 1'000'000'000, left % 1'000'000'000};
      bound = &timeout;
    }
    long slept = cancellable_wait(slot.state, state, bound);
    if (slept == -EINTR) {
      result = Waited::interrupted;
      break;
    }
    if (slept == -ETIMEDOUT && owner_died(slot)) {
      poison(slot, fd);
      return Waited::changed;
    }
  }
  return result;
}

}  // namespace inlay::shim
