// read, recv, write, send and their kin.
//
// Linux rules kept here rather than in session/: a negative or too large vector count is EINVAL
// (import_iovec), the fortified variants abort in the C library, a connected stream reports no
// sender (recvfrom), the *mmsg calls are loops, read() without room is 0 whatever the socket says
// (sock_read_iter) where recv() waits.

#include <climits>
#include <ctime>

#include "shim/arena/arena.h"
#include "shim/hooks/hook.h"
#include "shim/session/in_flight.h"
#include "shim/session/outgoing.h"
#include "shim/session/program_memory.h"

using namespace inlay::shim;

namespace {

bool valid_count(int count) { return count >= 0 && count <= IOV_MAX; }

ssize_t read_parts(Slot &slot, int fd, const iovec *parts, int count, int flags) {
  if (!valid_count(count)) return fail(EINVAL);
  if (is_bad_address(parts, static_cast<std::size_t>(count))) return fail(EFAULT);
  std::size_t room = 0;
  for (int i = 0; i < count; ++i) room |= parts[i].iov_len;
  if (room == 0) return 0;
  return receive(slot, fd, {parts, static_cast<std::size_t>(count)}, flags);
}

ssize_t send_parts(Slot &slot, int fd, const iovec *parts, int count, int flags) {
  if (!valid_count(count)) return fail(EINVAL);
  return send(slot, fd, {parts, static_cast<std::size_t>(count)}, flags);
}

ssize_t receive_one(Slot &slot, int fd, void *buffer, size_t length, int flags) {
  iovec part{buffer, length};
  return receive(slot, fd, one_part(part), flags);
}

ssize_t read_one(Slot &slot, int fd, void *buffer, size_t length) {
  return length == 0 ? 0 : receive_one(slot, fd, buffer, length, 0);
}

ssize_t send_one(Slot &slot, int fd, const void *buffer, size_t length, int flags) {
  iovec part{const_cast<void *>(buffer), length};
  return send(slot, fd, one_part(part), flags);
}

// A stream socket tells no sender: the kernel sets the length to 0 and leaves the address alone.
ssize_t receive_from(Slot &slot, int fd, void *buffer, size_t length, int flags, sockaddr *from,
                     socklen_t *from_length) {
  ssize_t result = receive_one(slot, fd, buffer, length, flags);
  if (result >= 0 && from != nullptr && from_length != nullptr) *from_length = 0;
  return result;
}

// RWF_NOWAIT is the only flag that means something on a socket; the others the kernel ignores
// there.
int flags_of_rwf(int flags) { return (flags & RWF_NOWAIT) != 0 ? MSG_DONTWAIT : 0; }
constexpr int kKnownRwf = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;

// Descriptors another process sent (SCM_RIGHTS) took numbers inlay may have known as others. A message
// that was only looked at stays in flight.
void take_in(int over, const msghdr *message, int flags) {
  if (!boot::active()) return;
  for_each_passed(message, [over, flags](int fd) {
    created(fd);
    if ((flags & MSG_PEEK) == 0) arrived(fd, over);
  });
}

bool has_sessions() { return boot::active() && arena_count() != 0; }

bool is_connect(int fd, int flags) {
  return (flags & MSG_FASTOPEN) != 0 && !passes(fd) && descriptor_word(fd) != kPlain;
}

long elapsed_ns(const timespec &since) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (now.tv_sec - since.tv_sec) * 1'000'000'000L + (now.tv_nsec - since.tv_nsec);
}

// As the kernel's do_recvmmsg: the timeout is looked at only after a message came; an error after
// the first message is left for the next call (SO_ERROR semantics are the session's); only the
// first message of MSG_WAITFORONE waits.
int receive_messages(Slot &slot, int fd, mmsghdr *messages, unsigned count, int flags,
                     timespec *timeout) {
  timespec start{};
  if (timeout != nullptr) {
    if (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1'000'000'000L) {
      return fail(EINVAL);
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
  }
  long room_ns = timeout == nullptr ? 0 : timeout->tv_sec * 1'000'000'000L + timeout->tv_nsec;
  int saved = errno;
  bool wait_for_one = (flags & MSG_WAITFORONE) != 0;
  int message_flags = flags & ~MSG_WAITFORONE;
  unsigned done = 0;
  if (is_bad_address(messages, count)) return fail(EFAULT);
  while (done < count && done < INT_MAX) {
    ssize_t got = receive_message(slot, fd, &messages[done].msg_hdr, message_flags);
    if (got < 0) {
      if (done == 0) return -1;
      break;
    }
    messages[done].msg_len = static_cast<unsigned>(got);
    ++done;
    if (wait_for_one) message_flags |= MSG_DONTWAIT;
    if (timeout != nullptr) {
      long left = room_ns - elapsed_ns(start);
      *timeout = left > 0 ? timespec{left / 1'000'000'000L, left % 1'000'000'000L} : timespec{};
      if (left <= 0) break;
    }
  }
  errno = saved;
  return static_cast<int>(done);
}

int send_messages(Slot &slot, int fd, mmsghdr *messages, unsigned count, int flags) {
  if (count > UIO_MAXIOV) count = UIO_MAXIOV;
  int saved = errno;
  unsigned done = 0;
  if (is_bad_address(messages, count)) return fail(EFAULT);
  while (done < count) {
    // The kernel marks all but the last as "more to come" (MSG_BATCH); MSG_MORE would hold data
    // back.
    ssize_t sent = send_message(slot, fd, &messages[done].msg_hdr, flags);
    if (sent < 0) {
      if (done == 0) return -1;
      break;
    }
    messages[done].msg_len = static_cast<unsigned>(sent);
    ++done;
  }
  errno = saved;
  return static_cast<int>(done);
}

// A close that no hook saw, and then an open: the number is no socket any more, and the call is meant
// for what is there now.
bool is_no_socket(int fd, ssize_t result) {
  if (result >= 0 || errno != ENOTSOCK) return false;
  forget_descriptor(fd);
  return true;
}

// The hooks that are called most save no register before they know that they have nothing to do: what
// comes after is a function of its own.

[[gnu::noinline]] ssize_t look_and_read(int fd, void *buffer, size_t count) {
  if (Slot *slot = session_for_data(fd)) {
    ssize_t done = read_one(*slot, fd, buffer, count);
    if (!is_no_socket(fd, done)) return done;
  }
  return next.read(fd, buffer, count);
}

[[gnu::noinline]] ssize_t look_and_readv(int fd, const iovec *parts, int count) {
  if (Slot *slot = session_for_data(fd)) {
    ssize_t done = read_parts(*slot, fd, parts, count, 0);
    if (!is_no_socket(fd, done)) return done;
  }
  return next.readv(fd, parts, count);
}

[[gnu::noinline]] ssize_t look_and_recv(int fd, void *buffer, size_t length, int flags) {
  if (Slot *slot = session_for_data(fd)) return receive_one(*slot, fd, buffer, length, flags);
  return next.recv(fd, buffer, length, flags);
}

[[gnu::noinline]] ssize_t look_and_write(int fd, const void *buffer, size_t count) {
  if (Slot *slot = session_for_data(fd)) {
    ssize_t done = send_one(*slot, fd, buffer, count, 0);
    if (!is_no_socket(fd, done)) return done;
  }
  return next.write(fd, buffer, count);
}

[[gnu::noinline]] ssize_t look_and_writev(int fd, const iovec *parts, int count) {
  if (Slot *slot = session_for_data(fd)) {
    ssize_t done = send_parts(*slot, fd, parts, count, 0);
    if (!is_no_socket(fd, done)) return done;
  }
  return next.writev(fd, parts, count);
}

[[gnu::noinline]] ssize_t look_and_send(int fd, const void *buffer, size_t length, int flags) {
  if (Slot *slot = session_for_data(fd)) return send_one(*slot, fd, buffer, length, flags);
  return next.send(fd, buffer, length, flags);
}

}  // namespace

extern "C" {

ssize_t read(int fd, void *buffer, size_t count) {
  if (settled_unmanaged(fd)) [[likely]] return next.read(fd, buffer, count);
  return look_and_read(fd, buffer, count);
}

ssize_t __read(int fd, void *buffer, size_t count) {
  if (Slot *slot = session_for_data(fd)) {
    ssize_t done = read_one(*slot, fd, buffer, count);
    if (!is_no_socket(fd, done)) return done;
  }
  return next.__read(fd, buffer, count);
}

ssize_t __read_chk(int fd, void *buffer, size_t count, size_t size) {
  Slot *slot = session_for_data(fd);
  if (slot != nullptr && count <= size) return read_one(*slot, fd, buffer, count);
  return next.__read_chk(fd, buffer, count, size);
}

ssize_t readv(int fd, const struct iovec *parts, int count) {
  if (settled_unmanaged(fd)) [[likely]] return next.readv(fd, parts, count);
  return look_and_readv(fd, parts, count);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  // Other offsets never move a byte: ESPIPE or EINVAL from the kernel.
  if (offset == -1) {
    if (Slot *slot = session_for_data(fd)) {
      if ((flags & ~kKnownRwf) != 0) return fail(EOPNOTSUPP);
      return read_parts(*slot, fd, parts, count, flags_of_rwf(flags));
    }
  }
  return next.preadv2(fd, parts, count, offset, flags);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
  return preadv2(fd, parts, count, offset, flags);
}

ssize_t recv(int fd, void *buffer, size_t length, int flags) {
  if (settled_unmanaged(fd)) [[likely]] return next.recv(fd, buffer, length, flags);
  return look_and_recv(fd, buffer, length, flags);
}

ssize_t __recv(int fd, void *buffer, size_t length, int flags) {
  if (Slot *slot = session_for_data(fd)) return receive_one(*slot, fd, buffer, length, flags);
  return next.__recv(fd, buffer, length, flags);
}

ssize_t __recv_chk(int fd, void *buffer, size_t length, size_t size, int flags) {
  Slot *slot = session_for_data(fd);
  if (slot != nullptr && length <= size) return receive_one(*slot, fd, buffer, length, flags);
  return next.__recv_chk(fd, buffer, length, size, flags);
}

ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *from,
                 socklen_t *from_length) {
  if (Slot *slot = session_for_data(fd)) {
    return receive_from(*slot, fd, buffer, length, flags, from, from_length);
  }
  return next.recvfrom(fd, buffer, length, flags, from, from_length);
}

ssize_t __recvfrom_chk(int fd, void *buffer, size_t length, size_t size, int flags,
                       struct sockaddr *from, socklen_t *from_length) {
  Slot *slot = session_for_data(fd);
  if (slot != nullptr && length <= size) {
    return receive_from(*slot, fd, buffer, length, flags, from, from_length);
  }
  return next.__recvfrom_chk(fd, buffer, length, size, flags, from, from_length);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  if (Slot *slot = session_for_data(fd)) return receive_message(*slot, fd, message, flags);
  ssize_t result = next.recvmsg(fd, message, flags);
  if (result >= 0 && message->msg_controllen != 0) take_in(fd, message, flags);
  return result;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
             struct timespec *timeout) {
  if (Slot *slot = session_for_data(fd)) return receive_messages(*slot, fd, messages, count, flags, timeout);
  int result = next.recvmmsg(fd, messages, count, flags, timeout);
  for (int i = 0; i < result; ++i) {
    if (messages[i].msg_hdr.msg_controllen != 0) take_in(fd, &messages[i].msg_hdr, flags);
  }
  return result;
}

ssize_t write(int fd, const void *buffer, size_t count) {
  if (settled_unmanaged(fd)) [[likely]] return next.write(fd, buffer, count);
  return look_and_write(fd, buffer, count);
}

ssize_t __write(int fd, const void *buffer, size_t count) {
  if (Slot *slot = session_for_data(fd)) {
    ssize_t done = send_one(*slot, fd, buffer, count, 0);
    if (!is_no_socket(fd, done)) return done;
  }
  return next.__write(fd, buffer, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (settled_unmanaged(fd)) [[likely]] return next.writev(fd, parts, count);
  return look_and_writev(fd, parts, count);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  if (offset == -1) {
    if (Slot *slot = session_for_data(fd)) {
      if ((flags & ~kKnownRwf) != 0) return fail(EOPNOTSUPP);
      return send_parts(*slot, fd, parts, count, flags_of_rwf(flags));
    }
  }
  return next.pwritev2(fd, parts, count, offset, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
  return pwritev2(fd, parts, count, offset, flags);
}

ssize_t send(int fd, const void *buffer, size_t length, int flags) {
  if (settled_unmanaged(fd)) [[likely]] return next.send(fd, buffer, length, flags);
  return look_and_send(fd, buffer, length, flags);
}

ssize_t __send(int fd, const void *buffer, size_t length, int flags) {
  if (Slot *slot = session_for_data(fd)) return send_one(*slot, fd, buffer, length, flags);
  return next.__send(fd, buffer, length, flags);
}

ssize_t sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *to,
               socklen_t to_length) {
  // On a connected stream the address means nothing.
  Slot *slot = managed(fd);
  if (slot == nullptr && is_connect(fd, flags)) {
    iovec part{const_cast<void *>(buffer), length};
    msghdr message{};
    message.msg_name = const_cast<sockaddr *>(to);
    message.msg_namelen = to_length;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    return connect_and_send(fd, &message, flags, __builtin_return_address(0));
  }
  if (slot == nullptr) slot = session_for_data(fd);
  if (slot != nullptr) return send_one(*slot, fd, buffer, length, flags);
  return next.sendto(fd, buffer, length, flags, to, to_length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  Slot *slot = managed(fd);
  if (slot == nullptr && is_connect(fd, flags)) {
    return connect_and_send(fd, message, flags, __builtin_return_address(0));
  }
  if (slot == nullptr) slot = session_for_data(fd);
  if (slot != nullptr) return send_message(*slot, fd, message, flags);
  if (has_sessions() && has_control(message)) {
    return send_passing(fd, message, flags);
  }
  return next.sendmsg(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
  Slot *slot = managed(fd);
  if (slot == nullptr && count > 0 && is_connect(fd, flags)) {
    ssize_t sent = connect_and_send(fd, &messages[0].msg_hdr, flags, __builtin_return_address(0));
    if (sent < 0) return -1;
    messages[0].msg_len = static_cast<unsigned>(sent);
    return 1;
  }
  if (slot == nullptr) slot = session_for_data(fd);
  if (slot != nullptr) return send_messages(*slot, fd, messages, count, flags);
  unsigned limited = count < UIO_MAXIOV ? count : UIO_MAXIOV;
  if (has_sessions() && has_control(messages, limited)) {
    return send_all_passing(fd, messages, limited, flags);
  }
  return next.sendmmsg(fd, messages, count, flags);
}

int __sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
  return sendmmsg(fd, messages, count, flags);
}

}  // extern "C"
