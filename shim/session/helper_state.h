// The helper's own state, shared by the files that are the helper. Not for anybody else.
#pragma once

#include <atomic>
#include <cstdint>

#include <pthread.h>

#include "shim/arena/lock.h"
#include "shim/session/handshake_task.h"

namespace inlay::shim {

struct Helper {
  SharedLock start_lock;
  SharedLock work_lock;  // held while the helper works; fork waits for it
  std::atomic<bool> running{false};
  std::atomic<bool> sleeping{false};
  std::atomic<bool> parked{false};        // no thread until HelperAside ends
  bool was_running = false;               // when it was parked
  std::atomic<bool> stays{false};         // it could not be started again
  std::atomic<std::uint32_t> thread{0};   // its id
  pthread_t handle{};                     // of the last one, while it is
  bool joinable = false;                  // not joined yet; guarded by start_lock, as handle
  std::atomic<bool> cannot_start{false};  // keep_watch() failed: it does not try at every call
  std::atomic<Slot *> inbox{nullptr};
  int epoll = -1;
  int wake = -1;
  Task *tasks = nullptr;  // the helper thread's own list
  HalfOpen half_open;
};

extern Helper g_helper;

// Starts the thread unless it runs or is parked. False when it cannot be started.
bool ensure_running() noexcept;
// The epoll set and the eventfd; start_lock held.
void close_descriptors() noexcept;
// Takes every session out of the inbox and attends it. work_lock held.
void take_inbox() noexcept;
// The thread ends with its work undone; its tasks wait for the next one.
void park_here() noexcept;

// --- one session's work (attend.cc) ---------------------------------------------------------------

// Moves the session on as far as it goes without waiting.
void attend(Slot &slot) noexcept;
// Sees to what is due by the clock; returns how long until something else is, -1 for never.
std::int64_t check_deadlines() noexcept;
// What a parked thread left, armed in an epoll set that is gone: attends every session with work.
void resume_tasks() noexcept;

}  // namespace inlay::shim
