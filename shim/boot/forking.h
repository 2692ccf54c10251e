// What pthread_atfork() does for fork(), for children that are made in other ways (boot.cc).
#pragma once

#include <sched.h>

#include <cerrno>

#include "shim/session/fork.h"

namespace inlay::shim::boot {

void before_fork() noexcept;
void after_fork_parent() noexcept;
void after_fork_child() noexcept;

// Whether clone() with these flags makes a process as fork() does: with memory and descriptors of
// its own. With CLONE_VFORK the parent would sleep with its locks held: that child is followed
// late.
inline bool forks(unsigned long flags) noexcept {
  return (flags & (CLONE_VM | CLONE_FILES | CLONE_VFORK)) == 0;
}

// `call` returns in both processes, 0 in the child. No helper runs meanwhile: the C library would
// go on to count it among the child's threads, and setuid() there would wait for it.
template <typename Call>
long as_fork(Call call) noexcept {
  HelperAside aside(0, true);
  before_fork();
  long child = call();
  int saved = errno;
  if (child == 0) {
    after_fork_child();
  } else {
    after_fork_parent();
  }
  errno = saved;
  return child;
}

}  // namespace inlay::shim::boot
