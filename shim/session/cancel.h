// Blocking calls that pthread_cancel may end. What they leave behind is undone with the C library's
// own cleanup handlers, not with destructors: a destructor needs a landing pad, and the landing
// pads of this library belong to the static libgcc it carries, which cannot be entered from an
// unwinding that the host's libgcc_s began (it aborts). No frame between a cancellation point and
// the host may have anything to destroy at that call.
#pragma once

#include <pthread.h>

#include <csetjmp>
#include <cstring>

// What pthread_cleanup_push is made of outside C++ (pthread.h declares them there only).
extern "C" {
void __pthread_register_cancel(__pthread_unwind_buf_t *) noexcept;
void __pthread_unregister_cancel(__pthread_unwind_buf_t *) noexcept;
[[noreturn]] void __pthread_unwind_next(__pthread_unwind_buf_t *);
}

namespace inlay::shim {

// Runs `call(argument)`, a cancellation point; `undo(argument)` when the thread is cancelled in it.
template <typename Argument>
[[gnu::noinline]] long cancellable(long (*call)(Argument *), void (*undo)(Argument *),
                                   Argument *argument) {
  __pthread_unwind_buf_t frame;
  auto *jump = reinterpret_cast<__jmp_buf_tag *>(frame.__cancel_jmp_buf);
  if (__sigsetjmp(jump, 0) != 0) {
    undo(argument);
    __pthread_unwind_next(&frame);
  }
  __pthread_register_cancel(&frame);
  long result = call(argument);
  __pthread_unregister_cancel(&frame);
  return result;
}

}  // namespace inlay::shim
