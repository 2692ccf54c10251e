#include "shim/arena/lock.h"

#include <csignal>
#include <ctime>

#include <linux/futex.h>

#include "shim/arena/process.h"
#include "shim/arena/kernel.h"

namespace inlay::shim {
namespace {

constexpr std::uint32_t kWaiters = 0x80000000u;
constexpr std::uint32_t kOwner = 0x7fffffffu;
constexpr int kSpins = 64;
// How long a waiter sleeps before it looks whether the owner still lives. Not a correctness bound.
constexpr long kLivenessCheckNs = 20'000'000;

bool on_alternate_stack() noexcept {
  stack_t stack{};
  return kernel::call(SYS_sigaltstack, 0, kernel::word(&stack)) == 0 &&
         (stack.ss_flags & SS_ONSTACK) != 0;
}

bool alive(std::uint32_t tid) noexcept {
  // kill() finds a process by any of its threads' ids; EPERM means it lives under another uid.
  return kernel::call(SYS_kill, static_cast<long>(tid), 0) != -ESRCH;
}

}  // namespace

LockResult SharedLock::acquire() noexcept {
  std::uint32_t me = current_thread_id();
  std::uint32_t free = 0;
  LockResult result = LockResult::acquired;
  if (!word_.compare_exchange_strong(free, me, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
    result = contend(me);
    if (result == LockResult::reentered) return result;
  }
  frame_.store(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)),
               std::memory_order_relaxed);
  return result;
}

LockResult SharedLock::contend(std::uint32_t me) noexcept {
  if ((word_.load(std::memory_order_relaxed) & kOwner) == me) {
    // The stack grows down: an owner's frame below this one has returned without releasing, unless
    // this is a handler on another stack.
    auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    std::uintptr_t owner = frame_.load(std::memory_order_relaxed);
    if (owner > here || on_alternate_stack()) return LockResult::reentered;
    return LockResult::owner_gone;
  }
  for (int spin = 0; spin < kSpins; ++spin) {
    std::uint32_t free = 0;
    if (word_.compare_exchange_weak(free, me, std::memory_order_acquire)) {
      return LockResult::acquired;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  for (;;) {
    std::uint32_t seen = word_.load(std::memory_order_relaxed);
    if (seen == 0) {
      // Waiters may be asleep behind us: keep the bit.
      if (word_.compare_exchange_strong(seen, me | kWaiters, std::memory_order_acquire)) {
        return LockResult::acquired;
      }
      continue;
    }
    if ((seen & kWaiters) == 0 &&
        !word_.compare_exchange_strong(seen, seen | kWaiters, std::memory_order_relaxed)) {
      continue;
    }
    timespec timeout{0, kLivenessCheckNs};
    long slept = kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAIT,
                              static_cast<long>(seen | kWaiters), kernel::word(&timeout));
    if (slept == -ETIMEDOUT && !alive(seen & kOwner)) {
      std::uint32_t dead = seen | kWaiters;
      if (word_.compare_exchange_strong(dead, me | kWaiters, std::memory_order_acquire)) {
        return LockResult::owner_gone;
      }
    }
  }
}

void SharedLock::renew() noexcept {
  std::uint32_t seen = word_.load(std::memory_order_relaxed);
  std::uint32_t owner = seen & kOwner;
  if (seen == 0 || (owner != current_thread_id() && alive(owner))) return;
  word_.compare_exchange_strong(seen, 0, std::memory_order_acquire, std::memory_order_relaxed);
}

void SharedLock::release() noexcept {
  frame_.store(0, std::memory_order_relaxed);
  if ((word_.exchange(0, std::memory_order_release) & kWaiters) != 0) {
    kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAKE, 1);
  }
}

bool SharedLock::release_for(std::uint32_t thread) noexcept {
  if ((word_.load(std::memory_order_acquire) & kOwner) != thread) return false;
  release();
  return true;
}

}  // namespace inlay::shim
