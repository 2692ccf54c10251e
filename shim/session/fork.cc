// fork: a process shares the sessions that existed when it was forked, and nothing newer.
#include "shim/session/fork.h"

#include <algorithm>
#include <cerrno>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/participant.h"
#include "shim/arena/process.h"
#include "shim/session/helper.h"
#include "shim/session/lifetime.h"
#include "shim/session/session.h"

namespace inlay::shim {

void reset_arena_locks() noexcept;

void session_before_fork() noexcept {
  helper_before_fork();
  if (g_descriptor_words != nullptr) expect_child();
}

void session_after_fork_parent() noexcept {
  close_arenas();
  helper_after_fork_parent();
}

void session_after_fork_child() noexcept {
  if (g_descriptor_words == nullptr) return;
  reset_arena_locks();
  vouch();
  for (int fd = 0; fd <= highest_descriptor(); ++fd) {
    std::uint64_t word = descriptor_word(fd);
    if (word == kOwn) {
      if (is_arena_descriptor(fd)) continue;  // the child may execute something as well
      close_own(fd);  // the parent's: its helper's, or of a connection it still finishes
    } else if ((word & kManagedBit) != 0) {
      join_as_child(*reinterpret_cast<Slot *>(word & ~kManagedBit), fd);
    }
  }
  lingering().store(0, std::memory_order_relaxed);
  close_arenas();
  helper_after_fork_child();
}

}  // namespace inlay::shim
