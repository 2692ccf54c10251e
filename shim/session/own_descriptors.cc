// inlay's own descriptors: high numbers, close-on-exec, hidden from the program's close calls.
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/session/lifetime.h"
#include "shim/session/session.h"

namespace inlay::shim {

int copy_own(int fd) noexcept {
  rlimit limit{};
  kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, kernel::word(&limit));
  // High enough to be out of the way, low enough that the kernel's table need not grow for it.
  long from = limit.rlim_cur > 16384 ? 8192
              : limit.rlim_cur > 128 ? static_cast<long>(limit.rlim_cur) - 64
                                     : 3;
  long own = kernel::call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, from);
  if (own < 0) own = kernel::call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) return -1;
  set_descriptor_word(static_cast<int>(own), kOwn);
  return static_cast<int>(own);
}

int make_own(int fd) noexcept {
  int own = copy_own(fd);
  if (own >= 0) kernel::close(fd);
  return own;
}

void close_own(int fd) noexcept {
  if (fd < 0) return;
  kernel::close(fd);
  replace_descriptor_word(fd, kOwn, kUnknown);
}

bool is_own_descriptor(int fd) noexcept { return fd >= 0 && descriptor_word(fd) == kOwn; }

int next_own_descriptor(int from) noexcept {
  for (int fd = std::max(from, 0); fd <= highest_descriptor(); ++fd) {
    if (descriptor_word(fd) == kOwn) return fd;
  }
  return -1;
}

}  // namespace inlay::shim
