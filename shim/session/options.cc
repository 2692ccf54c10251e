// Socket options and ioctls whose answer the program must not get from the kernel alone.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include "shim/arena/kernel.h"
#include "shim/hooks/next.h"
#include "shim/session/internal.h"
#include "shim/session/program_memory.h"
#include "shim/session/receive.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

int answer_int(int number, void *value, socklen_t *length) noexcept {
  if (is_bad_address(length, sizeof *length) || is_bad_address(value, *length)) {
    errno = EFAULT;
    return -1;
  }
  socklen_t size = std::min<socklen_t>(*length, sizeof(number));
  std::memcpy(value, &number, size);
  *length = size;
  return 0;
}

int refused(Slot &slot, int fd, const char *option, int error) noexcept {
  note_unsupported(slot, fd, option);
  errno = error;
  return -1;
}

// The kernel says what it makes of the number; then it gets its own.
int set_low_water(Slot &slot, int fd, const void *value, socklen_t length) noexcept {
  Locked guard(slot.receive_lock);
  int result = next.setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, value, length);
  if (result != 0) return result;
  int taken = 1;
  socklen_t size = sizeof(taken);
  kernel::get_option(fd, SOL_SOCKET, SO_RCVLOWAT, &taken, &size);
  slot.receive_low_water.store(taken, std::memory_order_relaxed);
  apply_low_water(slot, fd);
  return 0;
}

// inlay looks ahead itself, and from the front: the kernel's own stays off. It says whether it has it.
int set_peek_offset(Slot &slot, int fd, const void *value, socklen_t length) noexcept {
  int offset = -1;
  const int off = -1;
  if (length < sizeof offset || is_bad_address(value, sizeof offset)) {
    return next.setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, value, length);
  }
  std::memcpy(&offset, value, sizeof offset);
  int result = next.setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off);
  if (result == 0) slot.peek_offset.store(offset, std::memory_order_relaxed);
  return result;
}

int get_peek_offset(Slot &slot, int fd, void *value, socklen_t *length) noexcept {
  int result = next.getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, value, length);
  if (result != 0) return result;
  return answer_int(slot.peek_offset.load(std::memory_order_relaxed), value, length);
}

// A failed connect is the kernel's to tell; a session that failed looks like a reset. Either is told
// once, by whichever call asks first.
int get_error(Slot &slot, int fd, void *value, socklen_t *length) noexcept {
  State state = slot.state.load(std::memory_order_acquire);
  if (state == State::failed) {
    bool told = slot.error_taken.exchange(true, std::memory_order_relaxed);
    return answer_int(told ? 0 : ECONNRESET, value, length);
  }
  if (takes_reset(slot)) return answer_int(ECONNRESET, value, length);
  int result = next.getsockopt(fd, SOL_SOCKET, SO_ERROR, value, length);
  int error = 0;
  if (result == 0) std::memcpy(&error, value, std::min<std::size_t>(*length, sizeof(error)));
  if (error != 0 && state != State::connecting) {
    slot.error_taken.store(true, std::memory_order_relaxed);
  }
  return result;
}

}  // namespace

int get_option(Slot &slot, int fd, int level, int name, void *value, socklen_t *length) noexcept {
  if (level == SOL_SOCKET && name == SO_ERROR) {
    return get_error(slot, fd, value, length);
  } else if (level == SOL_SOCKET && name == SO_RCVLOWAT) {
    return answer_int(slot.receive_low_water.load(std::memory_order_relaxed), value, length);
  } else if (level == SOL_SOCKET && name == SO_PEEK_OFF) {
    return get_peek_offset(slot, fd, value, length);
  } else if (level == IPPROTO_TCP && name == TCP_ZEROCOPY_RECEIVE) {
    return refused(slot, fd, "TCP_ZEROCOPY_RECEIVE", EINVAL);
  }
  return next.getsockopt(fd, level, name, value, length);
}

int set_option(Slot &slot, int fd, int level, int name, const void *value,
               socklen_t length) noexcept {
  if (level == SOL_SOCKET && name == SO_ZEROCOPY) return refused(slot, fd, "SO_ZEROCOPY", EOPNOTSUPP);
  if (level == IPPROTO_TCP && name == TCP_ULP) return refused(slot, fd, "TCP_ULP", ENOENT);
  if (level == SOL_SOCKET && name == SO_PEEK_OFF) return set_peek_offset(slot, fd, value, length);
  if (level == SOL_SOCKET && name == SO_RCVLOWAT) return set_low_water(slot, fd, value, length);
  return next.setsockopt(fd, level, name, value, length);
}

int control(Slot &slot, int fd, unsigned long request, void *argument) noexcept {
  if (request == FIONREAD) {
    int available = readable_bytes(slot, fd);
    if (available < 0) return next.ioctl(fd, request, argument);
    if (is_bad_address(argument, sizeof available)) {
      errno = EFAULT;
      return -1;
    }
    *static_cast<int *>(argument) = available;
    return 0;
  }
  return next.ioctl(fd, request, argument);
}

}  // namespace inlay::shim
