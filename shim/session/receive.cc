// The receive calls: waiting, errors and flags as on TCP. The records themselves are record_reader.h's.
#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/boot/sandbox.h"
#include "shim/hooks/next.h"
#include "shim/session/helper.h"
#include "shim/session/internal.h"
#include "shim/session/leaving.h"
#include "shim/session/program_memory.h"
#include "shim/session/receive.h"
#include "shim/session/record_reader.h"
#include "shim/session/session.h"
#include "shim/session/under_way.h"

namespace inlay::shim {
namespace {

using policy::Reason;

bool is_shut_for_reading(Slot &slot) noexcept {
  Locked guard(slot.receive_lock);
  return !guard.reentered() && !guard.owner_gone() && slot.receiving.shut;
}

bool is_shut_for_writing(Slot &slot) noexcept {
  Locked guard(slot.send_lock);
  return !guard.reentered() && !guard.owner_gone() && slot.sending.shut_requested;
}

// After shutdown(SHUT_RDWR) the kernel answers the peer's close_notify with a reset, as it does any data
// that nobody may read. Without TLS there would have been a FIN alone.
bool ended_by_us(Slot &slot, int error) noexcept {
  return error == ECONNRESET && is_shut_for_reading(slot) && is_shut_for_writing(slot);
}

bool blocks(int fd) noexcept { return (kernel::call(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK) == 0; }

// The kernel tells an error once, and a call that has data in hand cannot: the next one is told.
void keep_error(Slot &slot, long error) noexcept {
  if (error != ECONNRESET && error != ETIMEDOUT && error != EPIPE) return;
  slot.reason.store(Reason::reset_by_peer, std::memory_order_release);
}

// A call with data in hand waits for more: unlike one without it is not begun again after a signal,
// and gives what it has when its time is up. False when it must.
bool wait_for_more(Slot &slot, int fd, std::int64_t since) noexcept {
  std::uint8_t byte;
  if (boot::sandboxed() || slot.receive_low_water.load(std::memory_order_relaxed) > 1) {
    if (time_left(fd, SO_RCVTIMEO, since) == 0) return false;
    long woken = kernel::receive(fd, &byte, 1, MSG_PEEK);
    if (woken < 0) keep_error(slot, -woken);
    return woken >= 0;
  }
  std::int64_t left = time_left(fd, SO_RCVTIMEO, since);
  timespec limit{left / 1'000'000'000, left % 1'000'000'000};
  pollfd readable{fd, POLLIN, 0};
  return blocks(fd) && kernel::call(SYS_ppoll, kernel::word(&readable), 1,
                                    left < 0 ? 0 : kernel::word(&limit), 0, 8) > 0;
}

// MSG_PEEK that wants more than there is to look at. First time: how much the kernel has, so that
// the next look sees no less; then waits for more than that. False when there will not be more.
struct LookingFor {
  std::size_t seen = 0;
  long queued = 0;
};
bool wait_for_more_to_see(int fd, std::size_t seen, LookingFor &last) {
  if (seen != last.seen) {
    last = {seen, queued_bytes(fd)};
    return true;
  }
  auto wanted = static_cast<std::size_t>(last.queued) + 1;
  last.seen = 0;
  return next.recv(fd, nullptr, wanted, MSG_PEEK | MSG_TRUNC | MSG_WAITALL) > last.queued;
}

// The kernel's own blocking receive: EINTR, SA_RESTART, SO_RCVTIMEO and O_NONBLOCK are its own.
ssize_t sleep_until_readable(const UnderWay &call) {
  std::uint8_t byte;
  if (!call.copied) return next.recv(call.fd, &byte, 1, MSG_PEEK);
  long woken = kernel::receive(call.fd, &byte, 1, MSG_PEEK);  // a cancelled thread would keep the copy
  if (woken < 0) errno = static_cast<int>(-woken);
  return woken < 0 ? -1 : woken;
}

// What SO_PEEK_OFF has a look begin behind, and where the next one begins after `length` bytes
// (sk_peek_offset_fwd, sk_peek_offset_bwd).
std::size_t peek_offset(Slot &slot) noexcept {
  return static_cast<std::size_t>(std::max(slot.peek_offset.load(std::memory_order_relaxed), 0));
}
void move_peek_offset(Slot &slot, std::size_t length, bool peek) noexcept {
  std::int32_t offset = slot.peek_offset.load(std::memory_order_relaxed);
  if (offset < 0) return;
  auto moved = static_cast<std::int32_t>(length);
  slot.peek_offset.store(peek ? offset + moved : std::max(offset - moved, 0),
                         std::memory_order_relaxed);
}

// Nothing comes behind what there is to look at.
bool has_ended(int fd) noexcept {
  pollfd ended{fd, POLLRDHUP, 0};
  timespec none{};
  return kernel::call(SYS_ppoll, kernel::word(&ended), 1, kernel::word(&none), 0, 8) > 0;
}

// A look behind all there is: how it ends when no more comes.
ssize_t nothing_behind(int fd, std::int64_t since, int entry_errno) noexcept {
  errno = entry_errno;
  if (has_ended(fd)) return 0;
  errno = blocks(fd) && time_left(fd, SO_RCVTIMEO, since) < 0 ? EINTR : EAGAIN;
  return -1;
}

// `over`: a look begins behind so many bytes. `delivers`: to the program.
ssize_t receive_under_way(Slot &slot, UnderWay &call, std::span<const iovec> parts, int flags,
                          std::size_t over, bool delivers) {
  const int entry_errno = errno;
  const bool peek = (flags & MSG_PEEK) != 0;
  const bool discard = (flags & MSG_TRUNC) != 0;
  Sink sink(parts, discard, over);
  // sock_rcvlowat(): a call that may wait does so for this much.
  const auto low_water = static_cast<std::size_t>(
      slot.receive_low_water.load(std::memory_order_relaxed));
  const std::size_t target =
      (flags & MSG_WAITALL) != 0 ? sink.room() - over : std::min(low_water, sink.room() - over);
  std::int64_t since = 0;  // it first waited
  LookingFor looked;
  bool slept = false;
  bool sleep_first = (flags & MSG_DONTWAIT) == 0 &&
                     slot.state.load(std::memory_order_acquire) == State::established &&
                     local(slot).expects_wait.load(std::memory_order_relaxed);
  for (;;) {
    if (!goes_on(slot, call)) {
      // Closed while this call slept.
      if (sink.delivered() > 0) break;
      errno = EBADF;
      return -1;
    }
    State state = slot.state.load(std::memory_order_acquire);
    if (state == State::failed) {
      if (!names(slot, call)) continue;  // closed just now
      if (sink.delivered() > 0) break;
      return receive_on_failed(slot);
    }
    if (state != State::established) {
      if (state == State::connecting && connecting_failed(call.fd)) {
        int error = take_socket_error(call.fd);
        if (error == 0) return 0;
        // An end and a reset before the helper saw the connection up: only a send would say EPIPE.
        errno = error == EPIPE ? ECONNRESET : error;
        return -1;
      }
      take_ownership(slot, call.fd);
      if (is_shut_for_reading(slot)) return 0;
      may_sleep(slot, call);
      if (since == 0) since = monotonic_ns();
      Waited waited = wait_for_session(slot, call.fd, flags, SO_RCVTIMEO);
      if (waited == Waited::changed) continue;
      if (waited == Waited::would_block) quiet_readiness(slot, call.fd);
      errno = waited == Waited::interrupted ? EINTR : EAGAIN;
      return -1;
    }
    keep_watch();
    if (!sleep_first) {
      Outcome outcome;
      {
        BorrowedScratch scratch;
        Locked guard(slot.receive_lock);
        if (guard.reentered() || !scratch) {
          if (sink.delivered() > 0) break;
          errno = scratch ? EAGAIN : ENOMEM;
          return -1;
        }
        if (guard.owner_gone()) {
          guard.unlock();
          poison(slot, call.fd);
          continue;
        }
        if (!names(slot, call)) continue;
        // After shutdown(SHUT_RD) what is there can still be read; nothing is waited for.
        outcome = RecordReader(slot, call.fd, *scratch.operator->(), sink, peek).run();
        if (outcome.fill == Fill::drained && slot.receiving.shut) outcome.fill = Fill::end;
        if (low_water > 1) apply_low_water(slot, call.fd);
      }
      if (outcome.fill == Fill::broken) {
        fail_closed(slot, call.fd, outcome.reason, outcome.detail, outcome.alert);
        continue;
      }
      if (outcome.fill == Fill::error) {
        if (ended_by_us(slot, outcome.error)) break;
        // By a close that no hook of this process saw: on with a copy.
        if (outcome.error == EBADF && call.counted && !names(slot, call)) continue;
        if (sink.delivered() > 0) {
          keep_error(slot, outcome.error);
          break;
        }
        if (outcome.error == ECONNRESET || outcome.error == ETIMEDOUT || outcome.error == EPIPE) {
          fail_closed(slot, call.fd, Reason::reset_by_peer);
          slot.error_taken.store(true, std::memory_order_relaxed);
        }
        errno = outcome.error;
        return -1;
      }
      if (outcome.fill == Fill::end || sink.delivered() >= target) break;
      if ((flags & MSG_DONTWAIT) != 0) {
        if (sink.delivered() > 0 || (sink.passed() > 0 && has_ended(call.fd))) break;
        errno = EAGAIN;
        return -1;
      }
    }
    sleep_first = false;
    may_sleep(slot, call);
    if (sink.passed() > 0) {
      if (since == 0) since = monotonic_ns();
      if (peek) {
        if (!wait_for_more_to_see(call.fd, sink.passed(), looked)) {
          if (sink.delivered() == 0) return nothing_behind(call.fd, since, entry_errno);
          break;
        }
        sink = Sink(parts, discard, over);
      } else if (!wait_for_more(slot, call.fd, since)) {
        break;
      }
      continue;
    }
    if (since == 0) {
      since = monotonic_ns();
    } else if (time_left(call.fd, SO_RCVTIMEO, since) == 0) {
      errno = EAGAIN;
      return -1;
    }
    ssize_t woken = sleep_until_readable(call);
    if (woken < 0 && ended_by_us(slot, errno)) continue;  // the reader says how it ends
    if (woken < 0 && errno == EBADF && !names(slot, call)) continue;  // closed on the way to sleep
    if (woken < 0) {
      if (errno == EAGAIN) local(slot).expects_wait.store(false, std::memory_order_relaxed);
      if (errno == ECONNRESET || errno == ETIMEDOUT) {
        int error = errno;
        fail_closed(slot, call.fd, Reason::reset_by_peer);
        slot.error_taken.store(true, std::memory_order_relaxed);
        errno = error;
      }
      return -1;
    }
    slept = true;
  }
  if (delivers && sink.delivered() > 0) move_peek_offset(slot, sink.delivered(), peek);
  if (sink.delivered() > 0 && !peek) {
    slot.bytes_in.fetch_add(sink.delivered(), std::memory_order_relaxed);
    if (slept != local(slot).expects_wait.load(std::memory_order_relaxed)) {
      local(slot).expects_wait.store(slept, std::memory_order_relaxed);
    }
  }
  errno = entry_errno;
  return static_cast<ssize_t>(sink.delivered());
}

}  // namespace

static ssize_t receive_by(Slot &slot, UnderWay &call, std::span<const iovec> parts, int flags) {
  if ((flags & MSG_ERRQUEUE) != 0) {
    msghdr message{};
    message.msg_iov = const_cast<iovec *>(parts.data());
    message.msg_iovlen = parts.size();
    return next.recvmsg(call.fd, &message, flags);
  }
  if ((flags & MSG_OOB) != 0) {
    note_unsupported(slot, call.fd, "MSG_OOB");
    errno = EINVAL;  // what TCP says when there is no urgent data
    return -1;
  }
  // TCP waits for data, or its end, even when there is no room for any.
  iovec nowhere{nullptr, 1};
  const bool bad = (flags & MSG_TRUNC) == 0 && has_bad_address(parts);
  const bool no_room = !bad && Sink(parts, false).room() == 0;
  const std::size_t over = (flags & MSG_PEEK) != 0 ? peek_offset(slot) : 0;
  if (no_room || bad) {
    parts = {&nowhere, 1};
    flags = (flags & MSG_DONTWAIT) | MSG_PEEK | MSG_TRUNC;
  }
  ssize_t got = receive_under_way(slot, call, parts, flags, over, !no_room && !bad);
  leave(slot, call);
  if (bad && got > 0) {
    errno = EFAULT;
    return -1;
  }
  return no_room && got > 0 ? 0 : got;
}

ssize_t receive(Slot &slot, int fd, std::span<const iovec> parts, int flags) {
  return on_number(
      slot, fd, [&](Slot &now, UnderWay &call) { return receive_by(now, call, parts, flags); },
      [&] { return receive_unconnected(fd, parts, flags); },
      [&] { return receive_by_kernel(fd, parts, flags); });
}

ssize_t receive_message(Slot &slot, int fd, msghdr *message, int flags) {
  if ((flags & MSG_ERRQUEUE) != 0) return next.recvmsg(fd, message, flags);
  if (is_bad_address(message, sizeof *message)) {
    errno = EFAULT;
    return -1;
  }
  if (message->msg_iovlen > IOV_MAX) {
    errno = EMSGSIZE;  // copy_msghdr_from_user, before it looks at a vector
    return -1;
  }
  if (is_bad_address(message->msg_iov, message->msg_iovlen)) {
    errno = EFAULT;
    return -1;
  }
  ssize_t got = receive(slot, fd, {message->msg_iov, message->msg_iovlen}, flags);
  if (got >= 0) {
    // TCP gives no address and no control data here (tcp_recvmsg), except what options ask for.
    message->msg_namelen = 0;
    message->msg_controllen = 0;
    message->msg_flags = flags & MSG_CMSG_CLOEXEC;
  }
  return got;
}

}  // namespace inlay::shim
