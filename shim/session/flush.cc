// The tail, sent with blocking calls outside the lock, one flusher at a time.
#include <linux/futex.h>

#include <cerrno>
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

// One blocking send of the tail's front.
struct Flush {
  Slot *slot;
  int fd;
  std::span<std::uint8_t> front;
};

long send_front(Flush *flush) {
  return next.send(flush->fd, flush->front.data(), flush->front.size(), MSG_NOSIGNAL);
}

void end_flush(Slot &slot, ssize_t sent) noexcept {
  Sending &tx = slot.sending;
  {
    Locked guard(slot.send_lock);
    if (sent > 0) queue_pop(slot, tx.tail, static_cast<std::size_t>(sent));
    tx.flusher.store(0, std::memory_order_relaxed);
    note_output(slot);
  }
  kernel::call(SYS_futex, kernel::word(&tx.flusher), FUTEX_WAKE, 1 << 30);
}

// The thread is cancelled: the kernel took nothing, and the helper goes on.
void give_up_flush(Flush *flush) {
  end_flush(*flush->slot, 0);
  notify_helper(*flush->slot);
}

}  // namespace

int flush_blocking(Slot &slot, UnderWay &call) {
  Sending &tx = slot.sending;
  Participant me = this_thread();
  int result = 0;
  while (result == 0) {
    std::span<std::uint8_t> front;
    if (!goes_on(slot, call)) return EBADF;
    {
      Locked guard(slot.send_lock);
      if (guard.reentered()) return EAGAIN;
      if (guard.owner_gone()) return EBADF;
      Participant other = tx.flusher.load(std::memory_order_relaxed);
      if (other == 0) {
        front = queue_front(slot, tx.tail);
        if (front.empty()) break;
        tx.flusher.store(me, std::memory_order_relaxed);
      }
    }
    if (front.empty()) {
      // Somebody else is at it: sleep until they are done, then look again.
      timespec look{0, 50'000'000};
      Participant other = tx.flusher.load(std::memory_order_relaxed);
      if (other == 0) continue;
      long slept = kernel::call(SYS_futex, kernel::word(&tx.flusher), FUTEX_WAIT,
                                static_cast<long>(static_cast<std::uint32_t>(other)),
                                kernel::word(&look));
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
    end_flush(slot, sent);
  }
  return result;
}

}  // namespace inlay::shim
