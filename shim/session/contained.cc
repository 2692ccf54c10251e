#include "shim/session/contained.h"

#include <pthread.h>

#include <cerrno>

#include "shim/arena/gate.h"
#include "shim/arena/kernel.h"
#include "shim/hooks/next.h"
#include "shim/session/cancel.h"

namespace inlay::shim {
namespace {

int result_of(long result) noexcept {
  if (result >= 0) return static_cast<int>(result);
  errno = static_cast<int>(-result);
  return -1;
}

int socket_from_gate(int domain, int type, int protocol) noexcept {
  return result_of(inlay_gate_call(SYS_socket, domain, type, protocol, 0, 0, 0));
}

struct Accept {
  int fd;
  sockaddr *address;
  socklen_t *length;
  int flags;
  int cancel_type = 0;
};

// A cancellation point, as the C library makes one around its own instruction. The gate has no
// unwinding information: the frame of cancellable() is where the unwinding begins.
long accept_cancelled_or_not(Accept *call) {
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &call->cancel_type);
  long result = inlay_gate_call(SYS_accept4, call->fd, kernel::word(call->address),
                                kernel::word(call->length), call->flags, 0, 0);
  pthread_setcanceltype(call->cancel_type, nullptr);
  return result;
}
void restore_cancel_type(Accept *call) { pthread_setcanceltype(call->cancel_type, nullptr); }

int accept4_from_gate(int fd, sockaddr *address, socklen_t *length, int flags) {
  Accept call{fd, address, length, flags};
  return result_of(cancellable(accept_cancelled_or_not, restore_cancel_type, &call));
}

int accept_from_gate(int fd, sockaddr *address, socklen_t *length) {
  return accept4_from_gate(fd, address, length, 0);
}

}  // namespace

void pass_through_gate() noexcept {
  next.socket = next.__socket = socket_from_gate;
  next.accept = accept_from_gate;
  next.accept4 = accept4_from_gate;
}

}  // namespace inlay::shim
