// Room in a table of descriptors that is full up to the soft limit: up to the hard one, for a
// moment. What stays open keeps its number. In a vfork child too, whose limits are its own.
#pragma once

#include <sys/resource.h>

#include "shim/arena/kernel.h"

namespace inlay::shim::boot {

class Room {
 public:
  Room() noexcept {
    if (kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, kernel::word(&before_)) != 0) return;
    if (before_.rlim_cur == before_.rlim_max) return;
    const rlimit most{before_.rlim_max, before_.rlim_max};
    is_made_ = kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, kernel::word(&most), 0) == 0;
  }
  ~Room() {
    if (is_made_) kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, kernel::word(&before_), 0);
  }
  Room(const Room &) = delete;
  Room &operator=(const Room &) = delete;

 private:
  rlimit before_{};
  bool is_made_ = false;
};

}  // namespace inlay::shim::boot
