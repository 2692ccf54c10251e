// The receive calls: waiting, errors and flags as on TCP. The records themselves are record_reader.h's.
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/hooks/next.h"
#include "shim/session/internal.h"
#include "shim/session/receive.h"
#include "shim/session/record_reader.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

using policy::Reason;

bool is_shut_for_reading(Slot &slot) noexcept {
  Locked guard(slot.receive_lock);
  return !guard.reentered() && !guard.owner_gone() && slot.receiving.shut;
}

// After shutdown(SHUT_RDWR) the kernel answers the peer's close_notify with a reset, as it does any data
// that nobody may read. Without TLS there would have been a FIN alone.
bool ended_by_us(Slot &slot, int error) noexcept {
  return error == ECONNRESET && is_shut_for_reading(slot);
}

}  // namespace

ssize_t receive(Slot &slot, int fd, std::span<const iovec> parts, int flags) {
  if ((flags & MSG_ERRQUEUE) != 0) {
    msghdr message{};
    message.msg_iov = const_cast<iovec *>(parts.data());
    message.msg_iovlen = parts.size();
    return next.recvmsg(fd, &message, flags);
  }
  if ((flags & MSG_OOB) != 0) {
    note_unsupported(slot, fd, "MSG_OOB");
    errno = EINVAL;  // what TCP says when there is no urgent data
    return -1;
  }
  const int entry_errno = errno;
  const bool peek = (flags & MSG_PEEK) != 0;
  const bool wait_all = (flags & MSG_WAITALL) != 0 && !peek;
  Sink sink(parts, (flags & MSG_TRUNC) != 0);
  if (sink.room() == 0) {
    // TCP waits for data, or its end, even when there is no room for any.
    iovec nowhere{nullptr, 1};
    ssize_t got = receive(slot, fd, {&nowhere, 1}, (flags & MSG_DONTWAIT) | MSG_PEEK | MSG_TRUNC);
    return got > 0 ? 0 : got;
  }
  const std::uint32_t generation = slot.generation.load(std::memory_order_relaxed);
  bool slept = false;
  bool sleep_first = (flags & MSG_DONTWAIT) == 0 && sink.room() > 0 &&
                     slot.state.load(std::memory_order_acquire) == State::established &&
                     local(slot).expects_wait.load(std::memory_order_relaxed);
  for (;;) {
    if (slot.generation.load(std::memory_order_relaxed) != generation ||
        descriptor_word(fd) != managed_word(&slot) ||
        slot.state.load(std::memory_order_acquire) == State::free) {
      // Closed while this call slept.
      if (sink.delivered() > 0) break;
      errno = EBADF;
      return -1;
    }
    State state = slot.state.load(std::memory_order_acquire);
    if (state == State::failed) {
      if (sink.delivered() > 0) break;
      return receive_on_failed(slot);
    }
    if (state != State::established) {
      if (state == State::connecting && connecting_failed(fd)) {
        int error = take_socket_error(fd);
        if (error == 0) return 0;
        errno = error;
        return -1;
      }
      take_ownership(slot, fd);
      if (is_shut_for_reading(slot)) return 0;
      Waited waited = wait_for_session(slot, fd, flags, SO_RCVTIMEO);
      if (waited == Waited::changed) continue;
      if (waited == Waited::would_block) quiet_readiness(slot, fd);
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
          poison(slot, fd);
          continue;
        }
        if (descriptor_word(fd) != managed_word(&slot)) continue;
        // After shutdown(SHUT_RD) what is there can still be read; nothing is waited for.
        outcome = RecordReader(slot, fd, *scratch.operator->(), sink, peek).run();
        if (outcome.fill == Fill::drained && slot.receiving.shut) outcome.fill = Fill::end;
      }
      if (outcome.fill == Fill::broken) {
        fail_closed(slot, fd, outcome.reason, outcome.detail, outcome.alert);
        continue;
      }
      if (outcome.fill == Fill::error) {
        if (sink.delivered() > 0 || ended_by_us(slot, outcome.error)) break;
        if (outcome.error == ECONNRESET || outcome.error == ETIMEDOUT || outcome.error == EPIPE) {
          fail_closed(slot, fd, Reason::reset_by_peer);
          slot.error_taken.store(true, std::memory_order_relaxed);
        }
        errno = outcome.error;
        return -1;
      }
      if (outcome.fill == Fill::end) break;
      if (sink.room() == 0 || (sink.delivered() > 0 && !wait_all)) break;
      if ((flags & MSG_DONTWAIT) != 0) {
        if (sink.delivered() > 0) break;
        errno = EAGAIN;
        return -1;
      }
    }
    sleep_first = false;
    // The kernel's own blocking receive: EINTR, SA_RESTART, SO_RCVTIMEO and O_NONBLOCK are its own.
    std::uint8_t byte;
    ssize_t woken = next.recv(fd, &byte, 1, MSG_PEEK);
    if (woken < 0 && ended_by_us(slot, errno)) continue;  // the reader says how it ends
    if (woken < 0) {
      if (errno == EAGAIN) local(slot).expects_wait.store(false, std::memory_order_relaxed);
      if (sink.delivered() > 0) break;
      if (errno == ECONNRESET || errno == ETIMEDOUT) {
        int error = errno;
        fail_closed(slot, fd, Reason::reset_by_peer);
        slot.error_taken.store(true, std::memory_order_relaxed);
        errno = error;
      }
      return -1;
    }
    slept = true;
  }
  if (sink.delivered() > 0 && !peek) {
    slot.bytes_in.fetch_add(sink.delivered(), std::memory_order_relaxed);
    if (slept != local(slot).expects_wait.load(std::memory_order_relaxed)) {
      local(slot).expects_wait.store(slept, std::memory_order_relaxed);
    }
  }
  errno = entry_errno;
  return static_cast<ssize_t>(sink.delivered());
}

ssize_t receive_message(Slot &slot, int fd, msghdr *message, int flags) {
  if ((flags & MSG_ERRQUEUE) != 0) return next.recvmsg(fd, message, flags);
  if (message->msg_iovlen > IOV_MAX) {
    errno = EMSGSIZE;  // copy_msghdr_from_user, before it looks at a vector
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
