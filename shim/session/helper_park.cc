// The helper out of the way: around calls that need a process with one thread, and across fork.
#include <sched.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/agent_link.h"
#include "shim/session/agent_wishes.h"
#include "shim/boot/log.h"
#include "shim/boot/sandbox.h"
#include "shim/session/fork.h"
#include "shim/session/helper.h"
#include "shim/session/helper_state.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"

namespace inlay::shim {

void close_descriptors() noexcept {
  close_agent_link();
  close_own(g_helper.epoll);
  close_own(g_helper.wake);
  g_helper.epoll = -1;
  g_helper.wake = -1;
}

void park_here() noexcept {
  Locked starting(g_helper.start_lock);
  close_descriptors();
  g_helper.running.store(false, std::memory_order_seq_cst);
}

namespace {

void park() noexcept {
  g_helper.parked.store(true, std::memory_order_seq_cst);
  g_helper.was_running = g_helper.running.load(std::memory_order_seq_cst);
  // Until the C library and the kernel have let go of the thread, of one that ends by itself, too: both
  // count those that are still ending.
  constexpr int kLooks = 20'000;
  for (int look = 0; look < kLooks; ++look) {
    {
      Locked starting(g_helper.start_lock);
      if (starting.reentered() || !g_helper.joinable) return;
      if (pthread_tryjoin_np(g_helper.handle, nullptr) == 0) {
        g_helper.joinable = false;
        return;
      }
      std::uint64_t one = 1;
      if (g_helper.wake >= 0) {
        kernel::call(SYS_write, g_helper.wake, kernel::word(&one), sizeof(one));
      }
    }
    timespec pause{0, 100'000};
    kernel::call(SYS_nanosleep, kernel::word(&pause), 0);
  }
}

// What waits for a helper that will not come waits for ever.
void give_up_tasks() noexcept {
  for (Task *task = g_helper.tasks; task != nullptr; task = task->next) {
    Slot &slot = *task->slot;
    int fd = static_cast<int>(local(slot).descriptor) - 1;
    State state = slot.state.load(std::memory_order_acquire);
    if (fd < 0 || local(slot).task != task || state == State::established) continue;
    fail_closed(slot, fd, policy::Reason::out_of_resources, "the helper thread cannot be started");
  }
}

void unpark() noexcept {
  g_helper.parked.store(false, std::memory_order_seq_cst);
  bool needed = g_helper.was_running || g_helper.inbox.load(std::memory_order_seq_cst) != nullptr;
  if (needed && !ensure_running()) give_up_tasks();
}

}  // namespace

void keep_helper() noexcept {
  if (boot::sandboxed()) return;
  const int saved = errno;
  g_helper.stays.store(true, std::memory_order_relaxed);
  if (ensure_running()) keep_agent_link();
  errno = saved;
}

bool has_sockets() noexcept {
  for (int fd = 0; fd <= highest_descriptor(); ++fd) {
    std::uint64_t word = descriptor_word(fd);
    if (word == kSocket || (word & kManagedBit) != 0) return true;
  }
  return false;
}

void before_filter() noexcept {
  if (in_foreign_process()) return;
  boot::open_log();
  if (has_sockets()) keep_helper();
}

HelperAside::HelperAside(int spaces, bool needs_one_thread) noexcept : parked_(true) {
  if ((spaces & CLONE_NEWPID) != 0 && !needs_one_thread) {
    parked_ = false;
    keep_helper();
  } else {
    park();
  }
}

HelperAside::~HelperAside() {
  if (parked_) unpark();
}

void helper_before_fork() noexcept {
  g_helper.start_lock.acquire();
  g_helper.work_lock.acquire();
}

void helper_after_fork_parent() noexcept {
  g_helper.work_lock.release();
  g_helper.start_lock.release();
}

void helper_after_fork_child() noexcept {
  g_helper.start_lock.reset();
  g_helper.work_lock.reset();
  g_helper.running.store(false, std::memory_order_relaxed);
  g_helper.parked.store(false, std::memory_order_relaxed);
  g_helper.was_running = false;
  g_helper.joinable = false;
  g_helper.stays.store(false, std::memory_order_relaxed);
  g_helper.sleeping.store(false, std::memory_order_relaxed);
  g_helper.inbox.store(nullptr, std::memory_order_relaxed);
  g_helper.thread.store(0, std::memory_order_relaxed);
  g_helper.tasks = nullptr;  // the parent's
  g_helper.half_open.forget();
  forget_agent_link();
  g_helper.epoll = -1;  // closed with inlay's other descriptors: they are the parent's
  g_helper.wake = -1;
}

}  // namespace inlay::shim
