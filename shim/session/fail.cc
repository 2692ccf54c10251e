// Ending badly: always in the kernel first (shutdown), then by errno.
#include <cerrno>
#include <csignal>

#include <linux/futex.h>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/internal.h"
#include "shim/session/leaving.h"
#include "shim/session/lifetime.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

using policy::Event;
using policy::Reason;

void send_alert(Slot &slot, int fd, tls::Alert alert) noexcept {
  Locked guard(slot.send_lock);
  if (guard.reentered() || guard.owner_gone()) return;
  if (slot.sending.close_notify_sealed) return;  // the last that is sent (RFC 8446 §6.1)
  int error = 0;
  if (queue_control(slot, tls::ContentType::alert, tls::encode(alert))) {
    push_output(slot, fd, &error);
  }
}

}  // namespace

void set_state(Slot &slot, State state) noexcept {
  slot.state.store(state, std::memory_order_release);
  if (slot.waiters.load(std::memory_order_seq_cst) != 0) {
    kernel::call(SYS_futex, kernel::word(&slot.state), FUTEX_WAKE, 1 << 30);
  }
}

void fail_closed(Slot &slot, int fd, Reason reason, std::string_view detail,
                 const tls::Alert *alert) noexcept {
  State before = slot.state.load(std::memory_order_acquire);
  do {
    if (before == State::failed || before == State::free) return;
  } while (!slot.state.compare_exchange_weak(before, State::failed, std::memory_order_acq_rel));
  slot.reason.store(reason, std::memory_order_relaxed);
  if (before == State::established && alert != nullptr) send_alert(slot, fd, *alert);
  report(&slot, fd, before == State::established ? Event::cut : Event::refused, reason, detail);
  kernel::shut_down(fd, SHUT_RDWR);
  set_state(slot, State::failed);
}

void poison(Slot &slot, int fd) noexcept { fail_closed(slot, fd, Reason::poisoned); }

bool takes_reset(Slot &slot) noexcept {
  return slot.reason.load(std::memory_order_acquire) == Reason::reset_by_peer &&
         !slot.error_taken.exchange(true, std::memory_order_relaxed);
}

ssize_t receive_on_failed(Slot &slot) noexcept {
  bool shared = is_closing(slot);  // many connections' failure, each its own
  if (!shared && slot.error_taken.exchange(true, std::memory_order_relaxed)) return 0;
  errno = ECONNRESET;
  return -1;
}

ssize_t broken_pipe(int flags) noexcept {
  if ((flags & MSG_NOSIGNAL) == 0) {
    kernel::call(SYS_tgkill, kernel::process_id(), kernel::thread_id(), SIGPIPE);
  }
  errno = EPIPE;
  return -1;
}

ssize_t send_on_failed(Slot &slot, int flags) noexcept {
  bool shared = is_closing(slot);
  if (!shared && slot.error_taken.exchange(true, std::memory_order_relaxed)) return broken_pipe(flags);
  errno = ECONNRESET;
  return -1;
}

void refuse(Slot &slot, int fd, Refusal what, const char *detail) noexcept {
  fail_closed(slot, fd, what == Refusal::stdio ? Reason::stdio_unprotected : Reason::unsupported_call,
              detail);
}

bool may_name(Slot &slot, int to) noexcept {
  if (!beyond_table(to)) return true;
  int saved = errno;
  report(&slot, -1, Event::notice, Reason::out_of_resources, kBeyondTable);
  errno = saved;
  return false;
}

void note_refused(const char *call) noexcept {
  report(nullptr, -1, Event::refused, Reason::unsupported_call, call);
}

void note_unsupported(Slot &slot, int fd, const char *call) noexcept {
  report(&slot, fd, Event::notice, Reason::unsupported_call, call);
}

}  // namespace inlay::shim
