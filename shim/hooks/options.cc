#include "shim/hooks/hook.h"

using namespace inlay::shim;

extern "C" {

int getsockopt(int fd, int level, int option, void *value, socklen_t *length) noexcept {
  if (Slot *slot = managed(fd)) return get_option(*slot, fd, level, option, value, length);
  return next.getsockopt(fd, level, option, value, length);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length) noexcept {
  if (Slot *slot = managed(fd)) return set_option(*slot, fd, level, option, value, length);
  return next.setsockopt(fd, level, option, value, length);
}

int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  if (Slot *slot = managed(fd)) return control(*slot, fd, request, argument);
  return next.ioctl(fd, request, argument);
}

int shutdown(int fd, int how) noexcept {
  if (Slot *slot = managed(fd)) return shut_down(*slot, fd, how);
  return next.shutdown(fd, how);
}

}  // extern "C"
