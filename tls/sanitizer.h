// What the compiler's sanitizers cannot see by themselves and are told: a thread that goes on on
// another stack, and what the kernel orders. Nothing of it is in an ordinary build.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__)
#define INLAY_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define INLAY_THREAD_SANITIZER 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#define INLAY_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define INLAY_ADDRESS_SANITIZER 1
#endif
#endif

#ifdef INLAY_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif
#ifdef INLAY_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif

namespace inlay::sanitizer {

// What one thread did before it let go of `what` comes before what another does that takes it up,
// though no atomic operation of the program says so.
inline void lets_go([[maybe_unused]] void *what) noexcept {
#ifdef INLAY_THREAD_SANITIZER
  __tsan_release(what);
#endif
}
inline void takes_up([[maybe_unused]] void *what) noexcept {
#ifdef INLAY_THREAD_SANITIZER
  __tsan_acquire(what);
#endif
}

// The stack of a fiber, and the one it was entered from.
class Switches {
 public:
  void begin() noexcept {
#ifdef INLAY_THREAD_SANITIZER
    inside_ = __tsan_create_fiber(0);
#endif
  }
  // The function has returned, or never goes on.
  void end() noexcept {
#ifdef INLAY_THREAD_SANITIZER
    if (inside_ != nullptr) __tsan_destroy_fiber(inside_);
    inside_ = nullptr;
#endif
  }
  // Around the switch, outside. Thread Sanitizer counts a function's begin and end on one stack, so
  // what changes it is none.
  [[gnu::always_inline]] void entering([[maybe_unused]] const void *stack,
                                       [[maybe_unused]] std::size_t size) noexcept {
#ifdef INLAY_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&outside_frames_, stack, size);
#endif
#ifdef INLAY_THREAD_SANITIZER
    outside_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(inside_, 0);
#endif
  }
  void left() noexcept {
#ifdef INLAY_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(outside_frames_, nullptr, nullptr);
#endif
  }
  // Inside.
  void entered() noexcept {
#ifdef INLAY_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(inside_frames_, &outside_stack_, &outside_size_);
#endif
  }
  [[gnu::always_inline]] void leaving([[maybe_unused]] bool for_good) noexcept {
#ifdef INLAY_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(for_good ? nullptr : &inside_frames_, outside_stack_,
                                   outside_size_);
#endif
#ifdef INLAY_THREAD_SANITIZER
    __tsan_switch_to_fiber(outside_, 0);
#endif
  }

#ifdef INLAY_ADDRESS_SANITIZER
 private:
  void *outside_frames_ = nullptr, *inside_frames_ = nullptr;
  const void *outside_stack_ = nullptr;
  std::size_t outside_size_ = 0;
#endif
#ifdef INLAY_THREAD_SANITIZER
 private:
  void *outside_ = nullptr, *inside_ = nullptr;
#endif
};

}  // namespace inlay::sanitizer
