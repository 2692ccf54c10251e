// The descriptors this process has, from the kernel: true in a vfork child too, whose table of
// words is its parent's.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/session/proc.h"

namespace inlay::shim {

// Calls visit(fd) for each. Those inlay opens meanwhile may be among them. Without /proc, or when not
// one more can be opened: all numbers there may be, open or not; of those above a limit that came
// after them, such as a session had.
template <typename F>
void for_each_open_descriptor(F &&visit) noexcept {
  constexpr const char kFolder[] = "/proc/self/fd";
  long folder =
      kernel::call(SYS_openat, AT_FDCWD, kernel::word(kFolder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) {
    rlimit limit{};
    kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, kernel::word(&limit));
    int end = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1u << 16));
    end = std::max(end, highest_descriptor() + 1);
    for (int fd = 0; fd < end; ++fd) visit(fd);
    return;
  }
  for_each_number(static_cast<int>(folder), [&](std::uint32_t fd) {
    if (fd != static_cast<std::uint32_t>(folder)) visit(static_cast<int>(fd));
    return true;
  });
  kernel::close(static_cast<int>(folder));
}

}  // namespace inlay::shim
