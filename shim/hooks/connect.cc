#include "shim/hooks/hook.h"

using namespace inlay::shim;

extern "C" {

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  if (passes(fd)) return next.connect(fd, address, length);
  return connect_socket(fd, address, length, __builtin_return_address(0));
}

int __connect(int fd, const struct sockaddr *address, socklen_t length) {
  if (passes(fd)) return next.__connect(fd, address, length);
  return connect_socket(fd, address, length, __builtin_return_address(0));
}

}  // extern "C"
