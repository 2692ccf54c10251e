#include "shim/hooks/hook.h"

using namespace inlay::shim;

namespace {

// `fd` is fresh from the kernel; an unmanaged listener's sockets are unmanaged too (AF_UNIX).
int decide(int listener, int fd) {
  if (fd < 0 || !boot::active()) return fd;
  forget_descriptor(fd);
  return descriptor_word(listener) == kUnmanaged ? fd : accepted(listener, fd);
}

}  // namespace

extern "C" {

int accept(int fd, struct sockaddr *address, socklen_t *length) {
  return decide(fd, bound().accept(fd, address, length));
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
  return decide(fd, bound().accept4(fd, address, length, flags));
}

}  // extern "C"
