// A lock in shared memory that survives the death of its owner, a siglongjmp out of a signal
// handler and re-entry from one. One compare-and-swap when uncontended; no thread-library state, so
// it may be taken in a signal handler.
//
// pthread's robust mutexes are not used: their per-thread list is not safe against a signal handler
// that takes a second one, and they cannot tell re-entry from an owner whose frame is gone.
#pragma once

#include <atomic>
#include <cstdint>

#include "shim/arena/participant.h"

namespace inlay::shim {

enum class LockResult : std::uint8_t {
  acquired,
  reentered,   // this thread holds it further up its stack: a signal handler got here
  owner_gone,  // taken over from a dead thread or a frame that was jumped out of: what the lock
               // protects may be half-written, poison it. The caller holds the lock.
};

class SharedLock {
 public:
  LockResult acquire() noexcept;
  void release() noexcept;
  // As release(), when it was taken from an owner that is gone: everybody who takes it from now on
  // learns the same, until renew(). Who found out first may not be the one who can act on it.
  void release_broken() noexcept;
  // After exec: frees a lock that `thread` holds, which is of the image before this one. True when
  // it did: what the lock protects may be half-written.
  bool release_for(Participant thread) noexcept;
  // Returns when nobody holds it who does now, another thread that is: without taking it, so that who is
  // killed here breaks nothing.
  void outwait() noexcept;
  // In a forked child: forgets an owner that was another thread of the parent, for locks that are
  // private to the process.
  void reset() noexcept { word_.store(0, std::memory_order_relaxed); }
  // Before what it guards is used for something else: forgets an owner that is dead or a frame of
  // this thread. One that lives in another thread is just finding out that there is nothing for it
  // any more, and will release the lock.
  void renew() noexcept;

 private:
  // `here`: the frame of acquire(). `interrupted`: the one further up that was taking it when this
  // handler's signal came, or 0.
  LockResult contend(Participant me, std::uintptr_t here, std::uintptr_t interrupted) noexcept;
  long sleep(Participant seen) noexcept;

  std::atomic<Participant> word_{0};  // the owner, a thread; marked when somebody waits
  std::atomic<std::uintptr_t> frame_{0};
};

// This thread's kernel id, cached; correct in forked children.
std::uint32_t current_thread_id() noexcept;

// Holds the lock for a scope.
class Locked {
 public:
  explicit Locked(SharedLock &lock) noexcept : lock_(&lock), result_(lock.acquire()) {}
  ~Locked() { unlock(); }
  Locked(const Locked &) = delete;
  Locked &operator=(const Locked &) = delete;
  bool reentered() const noexcept { return result_ == LockResult::reentered; }
  bool owner_gone() const noexcept { return result_ == LockResult::owner_gone; }
  void unlock() noexcept {
    if (lock_ != nullptr && !reentered()) owner_gone() ? lock_->release_broken() : lock_->release();
    lock_ = nullptr;
  }

 private:
  SharedLock *lock_;
  LockResult result_;
};

}  // namespace inlay::shim
