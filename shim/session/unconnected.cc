// Data for, or from, a TCP socket without a connection. The kernel refuses that; but another thread
// may connect the socket between a hook's look and the call, and the program's bytes would go in
// the clear. So the kernel is asked with none of them. Where it does not refuse, the session has
// the call.

#include <cerrno>

#include "shim/arena/descriptors.h"
#include "shim/hooks/next.h"
#include "shim/session/internal.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

alignas(Slot) std::byte g_unconnected_storage[sizeof(Slot)];  // raw: no constructor at load

// A word that lags behind the kernel: looked at again, and no more often than this.
constexpr int kLooks = 3;

msghdr message_of(std::span<const iovec> parts) noexcept {
  msghdr message{};
  message.msg_iov = const_cast<iovec *>(parts.data());
  message.msg_iovlen = parts.size();
  return message;
}

}  // namespace

Slot &unconnected_session() noexcept { return *reinterpret_cast<Slot *>(g_unconnected_storage); }

bool is_unconnected(const Slot &slot) noexcept {
  return static_cast<const void *>(&slot) == static_cast<const void *>(g_unconnected_storage);
}

ssize_t send_by_kernel(int fd, std::span<const iovec> parts, int flags) {
  msghdr message = message_of(parts);
  return next.sendmsg(fd, &message, flags);
}

ssize_t receive_by_kernel(int fd, std::span<const iovec> parts, int flags) {
  msghdr message = message_of(parts);
  return next.recvmsg(fd, &message, flags);
}

ssize_t send_unconnected(int fd, std::span<const iovec> parts, int flags) {
  for (int look = 0; look < kLooks; ++look) {
    ssize_t said = next.send(fd, "", 0, flags);
    if (said < 0) return said;
    if (Slot *slot = managed(fd)) return send(*slot, fd, parts, flags);
    if (descriptor_word(fd) == kSocket) continue;
    return send_by_kernel(fd, parts, flags);
  }
  errno = EPIPE;
  return -1;
}

ssize_t receive_unconnected(int fd, std::span<const iovec> parts, int flags) {
  char byte;
  for (int look = 0; look < kLooks; ++look) {
    ssize_t said = next.recv(fd, &byte, 1, flags | MSG_PEEK);
    if (said <= 0) return said;
    if (Slot *slot = managed(fd)) return receive(*slot, fd, parts, flags);
    if (descriptor_word(fd) == kSocket) continue;
    return receive_by_kernel(fd, parts, flags);
  }
  errno = ENOTCONN;
  return -1;
}

}  // namespace inlay::shim
