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

namespace {

std::atomic<std::uint32_t> g_followed{0};  // the fork epoch sessions know of

// `join` takes in a number that names a session.
template <typename Join>
void become_child(Join join) noexcept {
  reset_arena_locks();
  vouch();
  for (int fd = 0; fd <= highest_descriptor(); ++fd) {
    std::uint64_t word = descriptor_word(fd);
    if (word == kOwn) {
      if (is_arena_descriptor(fd)) continue;  // the child may execute something as well
      close_own(fd);  // the parent's: its helper's, or of a connection it still finishes
    } else if ((word & kManagedBit) != 0) {
      join(*reinterpret_cast<Slot *>(word & ~kManagedBit), fd);
    }
  }
  lingering().store(0, std::memory_order_relaxed);
  close_arenas();
  helper_after_fork_child();
}

}  // namespace

void session_begin() noexcept { g_followed.store(fork_epoch(), std::memory_order_relaxed); }

void session_after_fork_child() noexcept {
  session_begin();
  if (g_descriptor_words != nullptr) become_child(join_as_child);
}

void follow_fork() noexcept {
  std::uint32_t epoch = fork_epoch();
  if (g_followed.load(std::memory_order_relaxed) == epoch ||
      g_followed.exchange(epoch, std::memory_order_relaxed) == epoch) {
    return;
  }
  if (g_descriptor_words != nullptr) become_child(join_late);
}

}  // namespace inlay::shim
