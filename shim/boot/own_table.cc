#include "shim/boot/own_table.h"

#include <linux/close_range.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/hooks/next.h"

namespace inlay::shim::boot {
namespace {

constexpr long kStackSize = 128 * 1024;
constexpr std::uint64_t kAllSignals = ~std::uint64_t{0};

struct Call {
  void (*act)(void *);
  void *argument;
  bool done = false;
};

int run(void *argument) {
  auto *call = static_cast<Call *>(argument);
  if (kernel::call(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE) == 0) {
    call->act(call->argument);
    call->done = true;
  }
  return 0;
}

// unshare() and setns() of a user namespace count threads that are still ending. Bounded: the number
// may be another thread's by now.
void await_gone(pid_t thread) noexcept {
  constexpr int kLooks = 1000;
  for (int look = 0; look < kLooks; ++look) {
    if (kernel::call(SYS_tgkill, kernel::process_id(), thread, 0) != 0) return;
    kernel::call(SYS_sched_yield);
  }
}

// Signals are the program's: the thread must not run its handlers. That it touches no memory any
// more, the kernel tells by its number (CLONE_CHILD_CLEARTID).
void run_in_thread(Call &call, std::byte *stack) noexcept {
  constexpr int kFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                         CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  std::atomic<pid_t> thread{0};
  std::uint64_t before = 0;
  kernel::call(SYS_rt_sigprocmask, SIG_BLOCK, kernel::word(&kAllSignals), kernel::word(&before), 8);
  int saved = errno;
  auto *number = reinterpret_cast<pid_t *>(&thread);
  pid_t made = next.clone(run, stack + kStackSize, kFlags, &call, number, nullptr, number);
  errno = saved;
  while (pid_t seen = thread.load(std::memory_order_acquire)) {
    kernel::call(SYS_futex, kernel::word(&thread), FUTEX_WAIT, seen, 0);
  }
  if (made > 0) await_gone(made);
  kernel::call(SYS_rt_sigprocmask, SIG_SETMASK, kernel::word(&before), 0, 8);
}

// A vfork child has a table of its own, and its parent's thread waits.
bool is_alone() noexcept {
#ifdef __SANITIZE_THREAD__
  return true;  // TSan cannot follow a thread that shares its maker's thread-local data
#else
  return __libc_single_threaded || in_foreign_process();
#endif
}

}  // namespace

void in_own_table(void (*act)(void *), void *argument) noexcept {
  Call call{act, argument};
  if (!sandboxed() && next.clone != nullptr && !is_alone()) {
    long stack = kernel::call(SYS_mmap, 0, kStackSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack > 0 || stack < -4095) {
      run_in_thread(call, reinterpret_cast<std::byte *>(stack));
      kernel::call(SYS_munmap, stack, kStackSize);
    }
  }
  if (!call.done) act(argument);
}

}  // namespace inlay::shim::boot
