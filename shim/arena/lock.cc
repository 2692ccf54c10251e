#include "shim/arena/lock.h"

#include <linux/futex.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "shim/arena/kernel.h"
#include "shim/arena/process.h"

namespace inlay::shim {
namespace {

constexpr Participant kWaiters = kMark;
// The owner of a lock that release_broken() gave back: there is no namespace 0, and so no such
// thread.
constexpr Participant kBroken = participant(0, 0, kNumberMask);
constexpr int kSpins = 64;
// How long a waiter sleeps before it looks whether the owner still lives. Not a correctness bound.
constexpr long kLivenessCheckNs = 20'000'000;

bool on_alternate_stack() noexcept {
  stack_t stack{};
  return kernel::call(SYS_sigaltstack, 0, kernel::word(&stack)) == 0 &&
         (stack.ss_flags & SS_ONSTACK) != 0;
}

constexpr Participant owner_in(Participant word) noexcept { return word & ~kWaiters; }

// The lock this thread is taking: a signal's handler may come when it has it, and has not said from
// which frame. Whoever is interrupted has what it was put back.
struct Taking {
  const SharedLock *lock;
  std::uintptr_t frame;
};
constinit thread_local Taking t_taking{};

}  // namespace

LockResult SharedLock::acquire() noexcept {
  Participant me = this_thread();
  Participant free = 0;
  LockResult result = LockResult::acquired;
  const auto frame = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  const Taking interrupted = t_taking;
  t_taking = {this, frame};
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (!word_.compare_exchange_strong(free, me, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
    result = contend(me, frame, interrupted.lock == this ? interrupted.frame : 0);
  }
  if (result != LockResult::reentered) frame_.store(frame, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  // One that has returned, or was jumped out of, interrupted nothing.
  t_taking = interrupted.frame > frame ? interrupted : Taking{};
  return result;
}

LockResult SharedLock::contend(Participant me, std::uintptr_t here,
                               std::uintptr_t interrupted) noexcept {
  if (owner_in(word_.load(std::memory_order_relaxed)) == me) {
    // The stack grows down: an owner's frame below this one has returned without releasing, unless
    // this is a handler on another stack.
    std::uintptr_t owner = interrupted != 0 ? interrupted : frame_.load(std::memory_order_relaxed);
    if (owner >= here || on_alternate_stack()) return LockResult::reentered;
    return LockResult::owner_gone;
  }
  for (int spin = 0; spin < kSpins; ++spin) {
    if (owner_in(word_.load(std::memory_order_relaxed)) == kBroken) break;
    Participant free = 0;
    if (word_.compare_exchange_weak(free, me, std::memory_order_acquire)) {
      return LockResult::acquired;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  for (;;) {
    Participant seen = word_.load(std::memory_order_relaxed);
    if (seen == 0) {
      // Waiters may be asleep behind us: keep the bit.
      if (word_.compare_exchange_strong(seen, me | kWaiters, std::memory_order_acquire)) {
        return LockResult::acquired;
      }
      continue;
    }
    if (owner_in(seen) == kBroken) {
      if (word_.compare_exchange_strong(seen, me | kWaiters, std::memory_order_acquire)) {
        return LockResult::owner_gone;
      }
      continue;
    }
    if ((seen & kWaiters) == 0 &&
        !word_.compare_exchange_strong(seen, seen | kWaiters, std::memory_order_relaxed)) {
      continue;
    }
    if (sleep(seen | kWaiters) == -ETIMEDOUT && !lives(this, owner_in(seen))) {
      Participant dead = seen | kWaiters;
      if (word_.compare_exchange_strong(dead, me | kWaiters, std::memory_order_acquire)) {
        return LockResult::owner_gone;
      }
    }
  }
}

void SharedLock::outwait() noexcept {
  // Written, not read: whoever takes it later sees what this thread did before.
  const Participant owner = owner_in(word_.fetch_or(0, std::memory_order_acq_rel));
  if (owner == 0 || owner == kBroken || owner == this_thread()) return;
  for (;;) {
    Participant seen = word_.load(std::memory_order_acquire);
    if (owner_in(seen) != owner) break;
    if ((seen & kWaiters) == 0 &&
        !word_.compare_exchange_strong(seen, seen | kWaiters, std::memory_order_relaxed)) {
      continue;
    }
    if (sleep(seen | kWaiters) == -ETIMEDOUT && !lives(this, owner)) break;
  }
  // The one that was woken may have been this one.
  kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAKE, 1);
}

// A futex is 32 bits: of the word, those with the mark and the thread.
long SharedLock::sleep(Participant seen) noexcept {
  timespec timeout{0, kLivenessCheckNs};
  return kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAIT,
                      static_cast<long>(static_cast<std::uint32_t>(seen)), kernel::word(&timeout));
}

void SharedLock::renew() noexcept {
  Participant seen = word_.load(std::memory_order_relaxed);
  const Participant owner = owner_in(seen);
  if (seen == 0 || (owner != kBroken && owner != this_thread() && lives(this, owner))) return;
  word_.compare_exchange_strong(seen, 0, std::memory_order_acquire, std::memory_order_relaxed);
}

void SharedLock::release() noexcept {
  // The frame stays: a signal's handler may come before the word is free.
  if ((word_.exchange(0, std::memory_order_release) & kWaiters) != 0) {
    kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAKE, 1);
  }
}

void SharedLock::release_broken() noexcept {
  if ((word_.exchange(kBroken, std::memory_order_release) & kWaiters) != 0) {
    kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAKE, 1);
  }
}

bool SharedLock::release_for(Participant thread) noexcept {
  if (owner_in(word_.load(std::memory_order_acquire)) != thread) return false;
  release();
  return true;
}

}  // namespace inlay::shim
