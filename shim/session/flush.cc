// The tail, sent with blocking calls outside the lock, one flusher at a time. A call that is left,
// by cancellation or by a jump out of a signal's handler, loses the kernel's word on how much it
// took: the socket's own counts tell.
#include <linux/futex.h>
#include <linux/tcp.h>
#include <netinet/in.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/hooks/next.h"
#include "shim/session/cancel.h"
#include "shim/session/internal.h"
#include "shim/session/under_way.h"

namespace inlay::shim {
namespace {

// The frame of a signal's handler is further down the stack than this: it holds all registers.
constexpr std::uintptr_t kLeastHandler = 512;

// What was ever written to the socket, in bytes, but for a constant; 0 when the kernel does not
// say. One look, under the socket's lock.
std::uint64_t written_to(int fd) noexcept {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return 0;
  return info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_notsent_bytes;
}

bool on_alternate_stack() noexcept {
  stack_t stack{};
  return kernel::call(SYS_sigaltstack, 0, kernel::word(&stack)) == 0 &&
         (stack.ss_flags & SS_ONSTACK) != 0;
}

// How much the kernel took of a send that was left; negative when that cannot be told.
std::int64_t taken_of(const Local &mine, int fd) noexcept {
  std::uint64_t now = written_to(fd);
  if (mine.flush_written == 0 || now < mine.flush_written) return -1;
  std::uint64_t taken = now - mine.flush_written;
  return taken <= mine.flush_length ? static_cast<std::int64_t>(taken) : -1;
}

// send_lock held.
void stop_flushing(Slot &slot) noexcept {
  Sending &tx = slot.sending;
  local(slot).flush_mark = nullptr;
  tx.flusher.store(0, std::memory_order_relaxed);
  kernel::call(SYS_futex, kernel::word(&tx.flusher), FUTEX_WAKE, 1 << 30);
}

// send_lock held.
void note_sent(Slot &slot, std::int64_t sent) noexcept {
  Sending &tx = slot.sending;
  if (sent > 0) queue_pop(slot, tx.tail, static_cast<std::size_t>(sent));
  note_output(slot);
  stop_flushing(slot);
}

// One blocking send of the tail's front.
struct Flush {
  Slot *slot;
  int fd;
  std::span<std::uint8_t> front;
};

long send_front(Flush *flush) {
  return next.send(flush->fd, flush->front.data(), flush->front.size(), MSG_NOSIGNAL);
}

// The thread is cancelled; the helper goes on.
void give_up_flush(Flush *flush) {
  Slot &slot = *flush->slot;
  std::int64_t taken = taken_of(local(slot), flush->fd);
  {
    Locked guard(slot.send_lock);
    if (guard.owner_gone()) {
      stop_flushing(slot);
      taken = -1;
    } else {
      note_sent(slot, taken);
    }
  }
  if (taken < 0) return poison(slot, flush->fd);
  notify_helper(slot);
}

// This thread is the flusher, and no frame of its stack is any more. A handler's frames are below
// the flusher's; others may be, too, where the program went deeper since, but then they wrote over
// it.
bool was_left(const Local &mine) noexcept {
  if (mine.flush_mark == nullptr) return false;
  auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  auto there = reinterpret_cast<std::uintptr_t>(mine.flush_mark);
  bool above = here + kLeastHandler > there && !on_alternate_stack();
  return above || *mine.flush_mark != there;
}

}  // namespace

bool is_being_flushed(Slot &slot, int fd) noexcept {
  Participant flusher = slot.sending.flusher.load(std::memory_order_relaxed);
  if (flusher == 0) return false;
  Local &mine = local(slot);
  if (flusher != this_thread() || !was_left(mine)) return true;
  std::int64_t taken = taken_of(mine, fd);
  if (taken < 0) return true;  // never again: the call that waits for it finds out
  note_sent(slot, taken);
  return false;
}

int flush_blocking(Slot &slot, UnderWay &call) {
  Sending &tx = slot.sending;
  Participant me = this_thread();
  int result = 0;
  while (result == 0) {
    std::span<std::uint8_t> front;
    std::uintptr_t mark = 0;
    if (!goes_on(slot, call)) return EBADF;
    {
      Locked guard(slot.send_lock);
      if (guard.reentered()) return EAGAIN;
      if (guard.owner_gone()) return EBADF;
      if (!is_being_flushed(slot, call.fd)) {
        front = queue_front(slot, tx.tail);
        if (front.empty()) break;
        Local &mine = local(slot);
        mark = reinterpret_cast<std::uintptr_t>(&mark);
        mine.flush_mark = &mark;
        mine.flush_written = written_to(call.fd);
        mine.flush_length = front.size();
        tx.flusher.store(me, std::memory_order_relaxed);
      }
    }
    if (front.empty()) {
      Participant other = tx.flusher.load(std::memory_order_relaxed);
      if (other == 0) continue;
      if (other == me) {
        // In a handler of the call that flushes; or that was left, and how far it came is not
        // known.
        if (!was_left(local(slot))) return EAGAIN;
        poison(slot, call.fd);
        return ECONNRESET;
      }
      // Somebody else is at it: sleep until they are done, then look again.
      timespec look{0, 50'000'000};
      long slept =
          kernel::call(SYS_futex, kernel::word(&tx.flusher), FUTEX_WAIT,
                       static_cast<long>(static_cast<std::uint32_t>(other)), kernel::word(&look));
      if (slept == -EINTR) return EINTR;
      if (slept == -ETIMEDOUT && !lives(&slot, other)) {
        poison(slot, call.fd);
        return EBADF;
      }
      continue;
    }
    // The tail's front is stable: only a flusher takes from it.
    Flush flush{&slot, call.fd, front};
    long sent = 0;
    if (call.copied) {  // which a cancelled thread would keep
      sent = kernel::send(call.fd, front.data(), front.size(), MSG_NOSIGNAL);
      result = sent < 0 ? static_cast<int>(-sent) : 0;
    } else {
      sent = cancellable(send_front, give_up_flush, &flush);
      result = sent < 0 ? errno : 0;
    }
    Locked guard(slot.send_lock);
    mark = 0;
    if (guard.owner_gone()) {
      stop_flushing(slot);
      guard.unlock();
      poison(slot, call.fd);
      return ECONNRESET;
    }
    note_sent(slot, sent);
    if (result == EBADF && !names(slot, call)) result = 0;  // closed on the way to sleep
  }
  return result;
}

}  // namespace inlay::shim
