// A function that can be left in the middle and gone on with later: libssl signs inside
// SSL_do_handshake() and cannot be asked to come back, while an answer from the agent takes as long
// as it takes. One stack each, from mmap with a guard page, kept for the next one.
#pragma once

#include <ucontext.h>

#include <cstddef>

#include "tls/sanitizer.h"

namespace inlay::tls {

// Begun and resumed by one thread at a time, not always the same: what the function keeps over a
// suspend() must not point to a thread's own data. Exceptions may not leave the function, nor be in
// flight where it suspends. Destroyed while suspended, it never runs again: what its frames hold on
// the stack is gone without destructors, so suspend only below code that keeps nothing there.
class Fiber {
 public:
  using Function = void (*)(void *argument);

  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber &) = delete;
  Fiber &operator=(const Fiber &) = delete;

  // Runs `function` until it returns or suspends. True when it returned. False also when there is
  // no memory for a stack: then suspended() is false too, and nothing ran.
  bool run(Function function, void *argument) noexcept;
  // Goes on where it suspended; true when the function returned now.
  bool resume() noexcept;
  bool suspended() const noexcept { return stack_ != nullptr; }

  // Inside the function: gives the thread back to run() or resume().
  void suspend() noexcept;

 private:
  static void enter(unsigned high, unsigned low);
  bool switch_in() noexcept;
  void end() noexcept;

  ucontext_t outside_{};
  ucontext_t inside_{};
  void *stack_ = nullptr;  // of a function that has not returned
  Function function_ = nullptr;
  void *argument_ = nullptr;
  bool returned_ = false;
  [[no_unique_address]] sanitizer::Switches switches_;
};

}  // namespace inlay::tls
