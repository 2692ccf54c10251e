// Sending. The rule: what was reported sent will be sent, as far as TCP itself would have.
//
//  - Before the session is established, writes go to the early queue: bounded, plaintext, in the
//    arena. Nothing of it reaches the wire before the peer is authenticated and authorised.
//  - Afterwards records are sealed straight from the caller's buffers, several per system call. The
//    sequence number is advanced before a record is sealed, under the send lock, so that a key and
//    sequence number are never used twice, whatever dies in between.
//  - What the kernel does not take of sealed records is the tail. The session owns it: every later
//    call flushes it first, the helper if none comes. Until it is gone send() is EAGAIN, or blocks
//    on a blocking socket, outside the lock, one flusher at a time.
#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/helper.h"
#include "shim/session/internal.h"
#include "shim/session/leaving.h"
#include "shim/session/program_memory.h"
#include "shim/session/session.h"
#include "shim/session/under_way.h"

namespace inlay::shim {
namespace {

using policy::Reason;
using tls::ContentType;

// What one connection may write before its session is up, unless SO_SNDBUF is smaller.
constexpr std::size_t kEarlyLimit = 256 * 1024;

std::size_t total_length(std::span<const iovec> parts) noexcept {
  std::size_t total = 0;
  for (const iovec &part : parts) total += part.iov_len;
  return total;
}

bool make_cipher(Slot &slot) noexcept {
  Local &mine = local(slot);
  const tls::TrafficState &traffic = slot.sending.traffic;
  if (mine.seal != nullptr && mine.seal->key_generation() == traffic.key_generation) return true;
  delete mine.seal;
  mine.seal = tls::RecordCipher::make(traffic, true).release();
  return mine.seal != nullptr;
}

// Seals one record; the number is used up whatever happens. 0 on failure.
std::size_t seal_record(Slot &slot, ContentType type, std::span<const iovec> parts,
                        std::size_t offset, std::size_t length, std::uint8_t *out) noexcept {
  Sending &tx = slot.sending;
  std::uint64_t sequence = tx.traffic.sequence++;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return local(slot).seal->seal(sequence, type, parts, offset, length, out);
}

// Sends sealed bytes; the kernel's refusal to take all of them leaves a tail. `error` is 0 or the
// kernel's. False when the bytes are lost to a connection that lives: the session must fail.
bool send_sealed(Slot &slot, int fd, const std::uint8_t *bytes, std::size_t length, int flags,
                 int *error) noexcept {
  long sent = slot.sending.tail.length > 0 ? -EAGAIN : transmit(fd, bytes, length, flags);
  *error = 0;
  if (sent < 0 && sent != -EAGAIN) {
    *error = static_cast<int>(-sent);
    return reason_of_send(*error) == Reason::reset_by_peer;  // else the peer would miss a record
  }
  std::size_t taken = sent > 0 ? static_cast<std::size_t>(sent) : 0;
  return queue_append(slot, slot.sending.tail, bytes + taken, length - taken) == length - taken;
}

// A KeyUpdate of our own where the peer asked for one or the key is near its limit. None after
// close_notify, which is the last that is sent (RFC 8446 §6.1).
bool update_key_when_due(Slot &slot) noexcept {
  Sending &tx = slot.sending;
  bool asked = slot.key_update_due.load(std::memory_order_relaxed) &&
               slot.key_update_due.exchange(false, std::memory_order_acquire);
  bool worn = tls::update_due(tx.traffic);
  if ((!asked && !worn) || tx.close_notify_sealed) return true;
  return queue_control(slot, ContentType::handshake, tls::key_update_message(false)) &&
         tls::update(tx.traffic);
}

enum class Step : std::uint8_t { moved, full, failed, broken };

// Seals as much of the caller's bytes from `offset` on as one system call should carry. `moved`
// bytes were accepted. send_lock held, nothing waits before them.
Step seal_and_send(Slot &slot, int fd, Scratch &scratch, std::span<const iovec> parts,
                   std::size_t offset, std::size_t total, int flags, std::size_t *moved,
                   int *error) noexcept {
  *moved = 0;
  if (!update_key_when_due(slot) || !make_cipher(slot)) return Step::broken;
  std::size_t used = 0;
  std::size_t at = offset;
  for (std::size_t record = 0; record < kScratchRecords && at < total; ++record) {
    std::size_t length = std::min(total - at, tls::kMaxPlaintext);
    std::size_t size =
        seal_record(slot, ContentType::application_data, parts, at, length, scratch.bytes + used);
    if (size == 0) return Step::broken;
    used += size;
    at += length;
  }
  int more = at < total ? MSG_MORE : (flags & MSG_MORE);
  bool kept = send_sealed(slot, fd, scratch.bytes, used, more, error);
  if (!kept) return Step::broken;
  if (*error != 0) return Step::failed;
  *moved = at - offset;
  note_output(slot);
  return slot.sending.tail.length > 0 ? Step::full : Step::moved;
}

Push push_tail(Slot &slot, int fd, int *error) noexcept {
  Queue &tail = slot.sending.tail;
  // The end of the handshake and what was written early leave together: on its own the latter would
  // wait for an acknowledgement (Nagle) that the peer delays. And close_notify waits for the FIN
  // behind it: a peer woken for the one would not yet see the other, as with plain TCP it does.
  bool more = (slot.sending.early.length > 0 &&
               slot.state.load(std::memory_order_acquire) == State::established) ||
              (slot.sending.close_notify_sealed && !slot.sending.fin_sent);
  while (tail.length > 0) {
    std::span<std::uint8_t> front = queue_front(slot, tail);
    long sent = transmit(fd, front.data(), front.size(), more ? MSG_MORE : 0);
    if (sent < 0) {
      if (sent == -EAGAIN) return Push::pending;
      *error = static_cast<int>(-sent);
      return Push::failed;
    }
    queue_pop(slot, tail, static_cast<std::size_t>(sent));
  }
  return Push::done;
}

// A record was lost to a connection that lives, or could not be made: the session must fail, as
// reason_of_send() says.
Push cannot(int *error) noexcept {
  if (*error == 0) *error = ENOMEM;
  return Push::failed;
}

Push push_early(Slot &slot, int fd, int *error) noexcept {
  Sending &tx = slot.sending;
  if (tx.early.length == 0) return Push::done;
  BorrowedScratch scratch;
  if (!scratch) return cannot(error);  // nothing would tell when there is memory again
  while (tx.early.length > 0) {
    std::span<std::uint8_t> front = queue_front(slot, tx.early);
    iovec part{front.data(), front.size()};
    std::size_t moved = 0;
    Step step = seal_and_send(slot, fd, *scratch.operator->(), {&part, 1}, 0, front.size(), 0,
                              &moved, error);
    if (step == Step::failed) return Push::failed;
    if (step == Step::broken) return cannot(error);
    queue_pop(slot, tx.early, moved);
    if (step == Step::full) return Push::pending;
  }
  return Push::done;
}

Push push_end(Slot &slot, int fd, int *error) noexcept {
  Sending &tx = slot.sending;
  if (!tx.shut_requested || tx.fin_sent) return Push::done;
  if (!tx.close_notify_sealed) {
    std::array<std::uint8_t, 2> alert = tls::encode(tls::Alert::close_notify);
    if (!queue_control(slot, ContentType::alert, alert)) return cannot(error);
    tx.close_notify_sealed = true;
  }
  Push pushed = push_tail(slot, fd, error);
  if (pushed != Push::done) return pushed;
  tx.fin_sent = true;
  kernel::shut_down(fd, SHUT_WR);
  return Push::done;
}

// Room the early queue still has for this connection.
std::size_t early_room(Slot &slot, int fd) noexcept {
  int buffer = 0;
  socklen_t size = sizeof(buffer);
  std::size_t limit = kEarlyLimit;
  if (kernel::get_option(fd, SOL_SOCKET, SO_SNDBUF, &buffer, &size) == 0 && buffer > 0) {
    limit = std::min(limit, static_cast<std::size_t>(buffer));
  }
  std::uint64_t held = slot.sending.early.length;
  return held < limit ? limit - held : 0;
}

// Appends to the early queue what it has room for. send_lock held.
std::size_t write_early(Slot &slot, int fd, std::span<const iovec> parts,
                        std::size_t offset) noexcept {
  std::size_t room = early_room(slot, fd);
  std::size_t done = 0;
  for (const iovec &part : parts) {
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    std::size_t length = std::min(part.iov_len - offset, room - done);
    std::size_t kept =
        queue_append(slot, slot.sending.early,
                     static_cast<const std::uint8_t *>(part.iov_base) + offset, length);
    done += kept;
    if (kept < length || done == room) break;
    offset = 0;
  }
  note_output(slot);
  return done;
}

}  // namespace

void note_output(Slot &slot) noexcept {
  slot.output_pending.store(slot.sending.tail.length > 0 || slot.sending.early.length > 0 ||
                                (slot.sending.shut_requested && !slot.sending.fin_sent),
                            std::memory_order_release);
}

long transmit(int fd, const void *bytes, std::size_t length, int flags) noexcept {
  flags |= MSG_DONTWAIT | MSG_NOSIGNAL;
  long sent = kernel::send(fd, bytes, length, flags);
  if (sent >= 0 || sent == -EAGAIN) return sent;
  long again = kernel::send(fd, bytes, length, flags);
  return again == -EPIPE ? sent : again;  // gone: the first says why
}

Reason reason_of_send(int error) noexcept {
  if (error == EOWNERDEAD) return Reason::poisoned;
  bool refused = error == ENOBUFS || error == ENOMEM;
  return refused ? Reason::out_of_resources : Reason::reset_by_peer;
}

bool queue_control(Slot &slot, ContentType type, std::span<const std::uint8_t> message) noexcept {
  if (!make_cipher(slot)) return false;
  std::uint8_t record[64 + tls::kRecordOverhead];
  if (message.size() > 64) return false;
  iovec part{const_cast<std::uint8_t *>(message.data()), message.size()};
  std::size_t size = seal_record(slot, type, {&part, 1}, 0, message.size(), record);
  if (size == 0) return false;
  bool kept = queue_append(slot, slot.sending.tail, record, size) == size;
  note_output(slot);
  return kept;
}

Push push_output(Slot &slot, int fd, int *error) noexcept {
  *error = 0;
  if (is_being_flushed(slot, fd)) {
    if (lives(&slot, slot.sending.flusher.load(std::memory_order_relaxed))) return Push::pending;
    *error = EOWNERDEAD;  // how far it came nobody knows
    return Push::failed;
  }
  Push pushed = push_tail(slot, fd, error);
  if (slot.state.load(std::memory_order_acquire) == State::established) {
    if (pushed == Push::done && slot.key_update_due.load(std::memory_order_relaxed)) {
      if (!update_key_when_due(slot)) return cannot(error);
      pushed = push_tail(slot, fd, error);
    }
    if (pushed == Push::done) pushed = push_early(slot, fd, error);
    if (pushed == Push::done) pushed = push_end(slot, fd, error);
  }
  note_output(slot);
  return pushed;
}

static ssize_t send_under_way(Slot &slot, UnderWay &call, std::span<const iovec> parts, int flags) {
  const int entry_errno = errno;
  const std::size_t total = total_length(parts);
  std::size_t done = 0;
  std::int64_t since = 0;  // it first waited for the kernel
  int error = 0;
  bool owed = false;
  while (error == 0) {
    if (!goes_on(slot, call)) {
      error = EBADF;
      break;
    }
    State state = slot.state.load(std::memory_order_acquire);
    if (state == State::failed) {
      if (!names(slot, call)) continue;  // closed just now
      if (done > 0) break;
      return send_on_failed(slot, flags);
    }
    if (state == State::connecting && connecting_failed(call.fd)) {
      error = take_socket_error(call.fd);
      if (error == 0) error = EPIPE;
      break;
    }
    if (state == State::established) keep_watch();
    bool full = false;
    Reason broken = Reason::none;
    {
      Locked guard(slot.send_lock);
      if (guard.reentered()) {
        error = EAGAIN;
        break;
      }
      if (guard.owner_gone()) {
        guard.unlock();
        poison(slot, call.fd);
        continue;
      }
      if (!names(slot, call)) continue;
      if (slot.sending.shut_requested) {
        guard.unlock();
        if (done > 0) break;
        return broken_pipe(flags);
      }
      if (slot.state.load(std::memory_order_acquire) != state) continue;
      if (state != State::established) {
        done += write_early(slot, call.fd, parts, done);
        owed = true;
        full = done < total;
      } else {
        // A send of nothing waits for nothing, as TCP has it.
        bool waits = total > 0 && (slot.sending.tail.length > 0 || slot.sending.early.length > 0 ||
                                   slot.sending.flusher.load(std::memory_order_relaxed) != 0 ||
                                   slot.key_update_due.load(std::memory_order_relaxed));
        Push pushed = waits ? push_output(slot, call.fd, &error) : Push::done;
        if (pushed == Push::pending) {
          full = true;
          owed = true;
        } else if (pushed == Push::failed && reason_of_send(error) != Reason::reset_by_peer) {
          broken = reason_of_send(error);
        } else if (pushed == Push::done && done < total) {
          BorrowedScratch scratch;
          if (!scratch) {
            error = ENOMEM;
            break;
          }
          Step step = Step::moved;
          while (step == Step::moved && done < total) {
            std::size_t moved = 0;
            step = seal_and_send(slot, call.fd, *scratch.operator->(), parts, done, total, flags,
                                 &moved, &error);
            done += moved;
          }
          full = step == Step::full;
          owed = full;
          if (step == Step::broken)
            broken = error != 0 ? reason_of_send(error) : Reason::internal_error;
        }
      }
    }
    if (broken != Reason::none) {
      fail_closed(slot, call.fd, broken, "record could not be sealed or kept");
      error = 0;
      continue;
    }
    if (error != 0) break;
    if (state != State::established) {
      take_ownership(slot, call.fd);
      if (done == total) break;
      slot.writer_starved.store(true, std::memory_order_release);
      notify_helper(slot);
      may_sleep(slot, call);
      Waited waited = wait_for_session(slot, call.fd, flags, SO_SNDTIMEO);
      if (waited == Waited::changed) continue;
      error = waited == Waited::interrupted ? EINTR : EAGAIN;
      break;
    }
    if (!full) {
      if (done == total) break;
      continue;
    }
    if ((flags & MSG_DONTWAIT) != 0) {
      if (done == 0) error = EAGAIN;
      break;
    }
    may_sleep(slot, call);
    if (since == 0) {
      since = monotonic_ns();
    } else if (time_left(call.fd, SO_SNDTIMEO, since) == 0) {
      error = EAGAIN;
      break;
    }
    error = flush_blocking(slot, call);
    if (error == 0) owed = false;
    if (error == 0 && slot.sending.early.length > 0) continue;
    if (error == 0 && done == total) break;
  }
  if (owed) notify_helper(slot);
  if (done > 0) slot.bytes_out.fetch_add(done, std::memory_order_relaxed);
  if (done > 0 || (error == 0 && total == 0)) {
    errno = entry_errno;
    return static_cast<ssize_t>(done);
  }
  if (error == EPIPE && takes_reset(slot)) error = ECONNRESET;
  if (error == EPIPE) return broken_pipe(flags);
  if (error == ECONNRESET) slot.error_taken.store(true, std::memory_order_relaxed);
  errno = error;
  return -1;
}

static ssize_t send_by(Slot &slot, UnderWay &call, std::span<const iovec> parts, int flags) {
  if (has_bad_address(parts)) {
    errno = EFAULT;
    return -1;
  }
  if ((flags & (MSG_OOB | MSG_ZEROCOPY)) != 0) {
    note_unsupported(slot, call.fd, (flags & MSG_OOB) != 0 ? "MSG_OOB" : "MSG_ZEROCOPY");
    errno = EOPNOTSUPP;
    return -1;
  }
  if ((flags & MSG_FASTOPEN) != 0 && slot.state.load(std::memory_order_acquire) > State::connecting) {
    // A connection there is already: the kernel's errno, asked for without a byte.
    long none = kernel::send(call.fd, nullptr, 0, MSG_FASTOPEN | MSG_DONTWAIT | MSG_NOSIGNAL);
    if (none < 0) {
      errno = static_cast<int>(-none);
      return -1;
    }
  }
  ssize_t sent = send_under_way(slot, call, parts, flags);
  leave(slot, call);
  return sent;
}

ssize_t send(Slot &slot, int fd, std::span<const iovec> parts, int flags) {
  return on_number(
      slot, fd, [&](Slot &now, UnderWay &call) { return send_by(now, call, parts, flags); },
      [&] { return send_unconnected(fd, parts, flags); },
      [&] { return send_by_kernel(fd, parts, flags); });
}

ssize_t send_message(Slot &slot, int fd, const msghdr *message, int flags) {
  if (is_bad_address(message, sizeof *message)) {
    errno = EFAULT;
    return -1;
  }
  if (message->msg_iovlen > IOV_MAX) {
    errno = EMSGSIZE;  // copy_msghdr_from_user, before it looks at a vector
    return -1;
  }
  // Control data on TCP (timestamping, zerocopy) asks for what records can't give; it is ignored as
  // far as TCP ignores it. The address of an established connection is ignored by TCP as well.
  return send(slot, fd, {message->msg_iov, message->msg_iovlen}, flags);
}

}  // namespace inlay::shim
