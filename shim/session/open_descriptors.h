// The descriptors this process has, from the kernel: true in a vfork child too, whose table of
// words is its parent's.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "shim/arena/kernel.h"

namespace inlay::shim {

// Calls visit(fd) for each. Those inlay opens meanwhile may be among them. Without /proc: all
// numbers there may be, open or not.
template <typename F>
void for_each_open_descriptor(F &&visit) noexcept {
  constexpr const char kFolder[] = "/proc/self/fd";
  long folder =
      kernel::call(SYS_openat, AT_FDCWD, kernel::word(kFolder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) {
    rlimit limit{};
    kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, kernel::word(&limit));
    int end = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1u << 16));
    for (int fd = 0; fd < end; ++fd) visit(fd);
    return;
  }
  // linux_dirent64: inode, offset, length of the entry, type, name.
  constexpr long kLengthAt = 16, kNameAt = 19;
  alignas(std::uint64_t) char entries[2048];
  for (;;) {
    long got = kernel::call(SYS_getdents64, folder, kernel::word(entries), sizeof entries);
    if (got <= 0) break;
    for (long at = 0; at < got;) {
      std::uint16_t length;
      std::memcpy(&length, entries + at + kLengthAt, sizeof length);
      int fd = 0;
      const char *name = entries + at + kNameAt;
      for (; *name >= '0' && *name <= '9'; ++name) fd = fd * 10 + (*name - '0');
      if (*name == '\0' && fd != static_cast<int>(folder)) visit(fd);
      at += length;
    }
  }
  kernel::close(static_cast<int>(folder));
}

}  // namespace inlay::shim
