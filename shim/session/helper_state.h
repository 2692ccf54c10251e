// The helper's own state, shared by the files that are the helper. Not for anybody else.
#pragma once

#include <atomic>
#include <cstdint>

#include "shim/arena/lock.h"
#include "shim/session/handshake_task.h"

namespace inlay::shim {

struct Helper {
  SharedLock start_lock;
  SharedLock work_lock;  // held while the helper works; fork waits for it
  std::atomic<bool> running{false};
  std::atomic<bool> sleeping{false};
  std::atomic<bool> parked{false};        // no thread until helper_unpark()
  bool was_running = false;               // when it was parked
  std::atomic<std::uint32_t> thread{0};   // its id
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
// The thread ends with its work undone; its tasks wait for the next one.
void park_here() noexcept;

}  // namespace inlay::shim
