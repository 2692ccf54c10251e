// What posix_spawn will do with descriptors, before it does.
#pragma once

#include <fcntl.h>
#include <spawn.h>

#include "shim/arena/kernel.h"

namespace inlay::shim {

inline bool survives_exec(int fd) noexcept {
  long flags = kernel::call(SYS_fcntl, fd, F_GETFD);
  return flags >= 0 && (flags & FD_CLOEXEC) == 0;
}

// glibc's posix_spawn_file_actions_t keeps these (posix/spawn_int.h), the same since 2.1 but for
// kinds added at the end.
struct SpawnAction {
  enum Kind : int { close, dup2, open } kind;
  union {
    struct {
      int fd;
      int to;
    } dup2_action;
    struct {
      int fd;
      char *path;
      int flags;
      mode_t mode;
    } open_action;
  };
};

// Calls visit(fd) for each descriptor that is copied, which takes off its close-on-exec.
template <typename F>
void for_each_dup2(const posix_spawn_file_actions_t *actions, F &&visit) noexcept {
  if (actions == nullptr) return;
  const auto *list = reinterpret_cast<const SpawnAction *>(actions->__actions);
  for (int i = 0; i < actions->__used; ++i) {
    if (list[i].kind == SpawnAction::dup2) visit(list[i].dup2_action.fd);
  }
}

}  // namespace inlay::shim
