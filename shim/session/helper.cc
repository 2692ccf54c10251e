// The helper: inlay's own thread in the process. It drives handshakes, sends early data and tails
// nobody else sends, and finishes what closed connections owe. Hooks only move bytes and wait, so
// libssl never runs in a signal handler, on a coroutine's stack or across a fork.
//
//   a hook --notify_helper--> inbox (lock-free) --> task (one per session) --attend()-->  (attend.cc)
//
// The thread starts on demand and ends when nothing is left to do.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/session/agent_link.h"
#include "shim/session/agent_wishes.h"
#include "shim/session/fork.h"
#include "shim/session/handshake_task.h"
#include "shim/session/helper.h"
#include "shim/session/helper_state.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/policy_watch.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

constexpr std::size_t kStackSize = 512 * 1024;
constexpr std::int64_t kIdleNs = 2'000'000'000;  // how long a helper without work stays
constexpr std::int64_t kWatchNs = 1'000'000'000;  // between looks at the policy, with sessions open

void sleep_until_work(std::int64_t at_most) noexcept {
  epoll_event events[64];
  g_helper.sleeping.store(true, std::memory_order_seq_cst);
  if (g_helper.inbox.load(std::memory_order_seq_cst) != nullptr || has_agent_wishes()) at_most = 0;
  int timeout = at_most < 0 ? -1 : static_cast<int>((at_most + 999'999) / 1'000'000);
  long count = kernel::call(SYS_epoll_pwait, g_helper.epoll, kernel::word(events), 64, timeout, 0, 8);
  g_helper.sleeping.store(false, std::memory_order_relaxed);
  Locked working(g_helper.work_lock);
  for (long i = 0; i < count; ++i) {
    auto *slot = static_cast<Slot *>(events[i].data.ptr);
    if (events[i].data.ptr == agent_link_tag()) {
      attend_agent_link();
    } else if (slot != nullptr) {
      attend(*slot);
    } else {
      std::uint64_t drained;
      kernel::call(SYS_read, g_helper.wake, kernel::word(&drained), sizeof(drained));
    }
  }
}

// True when nothing came in the meantime and the thread may end.
bool retire() noexcept {
  Locked starting(g_helper.start_lock);
  if (g_helper.tasks != nullptr) return false;
  // Before the look at the inbox: who puts something in later finds that nobody runs.
  g_helper.running.store(false, std::memory_order_seq_cst);
  if (g_helper.inbox.load(std::memory_order_seq_cst) != nullptr) {
    g_helper.running.store(true, std::memory_order_seq_cst);
    return false;
  }
  // Its epoll set and eventfd stay: new ones would have low numbers for a moment.
  close_agent_link();
  return true;
}

void *run(void *) noexcept {
  kernel::call(SYS_prctl, PR_SET_NAME, kernel::word("inlay"));
  g_helper.thread.store(current_thread_id(), std::memory_order_release);
  resume_tasks();
  while (!g_helper.parked.load(std::memory_order_seq_cst)) {
    std::int64_t next_in = 0;
    bool watching = false;
    {
      Locked working(g_helper.work_lock);
      take_inbox();
      next_in = check_deadlines();
      watching = watch_policy();
      std::int64_t agent_in = agent_link_due(monotonic_ns(), watching);
      if (agent_in >= 0 && (next_in < 0 || agent_in < next_in)) next_in = agent_in;
    }
    bool idle = g_helper.tasks == nullptr && !watching &&
                !g_helper.stays.load(std::memory_order_relaxed);
    std::int64_t slept_from = monotonic_ns();
    // Tasks whose slot went away are found when somebody looks: at least once in a while.
    std::int64_t most = watching ? kWatchNs : kIdleNs;
    sleep_until_work(next_in < 0 ? most : std::min(next_in, most));
    if (idle && g_helper.tasks == nullptr && monotonic_ns() - slept_from >= kIdleNs && retire()) {
      return nullptr;
    }
  }
  park_here();
  return nullptr;
}

// -1 when there is none, or no number for it.
int owned(long fd) noexcept {
  int own = fd >= 0 ? make_own(static_cast<int>(fd)) : -1;
  if (own < 0 && fd >= 0) kernel::close(static_cast<int>(fd));
  return own;
}

bool make_descriptors() noexcept {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;
  // Of the helper before, if both still are what they were.
  if (g_helper.epoll >= 0 && kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_MOD,
                                          g_helper.wake, kernel::word(&event)) == 0) {
    return true;
  }
  g_helper.epoll = owned(kernel::call(SYS_epoll_create1, EPOLL_CLOEXEC));
  g_helper.wake = owned(kernel::call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK));
  return g_helper.epoll >= 0 && g_helper.wake >= 0 &&
         kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_ADD, g_helper.wake,
                      kernel::word(&event)) == 0;
}

// All signals stay the program's; glibc's own (SETXID, cancellation) must stay open, which
// pthread_sigmask sees to.
bool start_thread() noexcept {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setstacksize(&attributes, kStackSize);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int error = pthread_create(&g_helper.handle, &attributes, run, nullptr);
  g_helper.joinable = error == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return error == 0;
}

void wake() noexcept {
  if (!g_helper.sleeping.load(std::memory_order_seq_cst)) return;
  std::uint64_t one = 1;
  kernel::call(SYS_write, g_helper.wake, kernel::word(&one), sizeof(one));
}

}  // namespace

constinit Helper g_helper;

void take_inbox() noexcept {
  Slot *newest = g_helper.inbox.exchange(nullptr, std::memory_order_acquire);
  Slot *slot = nullptr;
  while (newest != nullptr) {  // first come, first served
    Slot *older = local(*newest).next_in_inbox.load(std::memory_order_relaxed);
    local(*newest).next_in_inbox.store(slot, std::memory_order_relaxed);
    slot = newest;
    newest = older;
  }
  while (slot != nullptr) {
    Local &mine = local(*slot);
    Slot *following = mine.next_in_inbox.load(std::memory_order_relaxed);
    mine.in_inbox.store(false, std::memory_order_release);
    attend(*slot);
    slot = following;
  }
}

bool on_helper_thread() noexcept {
  return g_helper.thread.load(std::memory_order_relaxed) == current_thread_id();
}

// The one before has said that it ends, and is about to.
static void join_last() noexcept {
  if (!g_helper.joinable) return;
  int cancellation;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancellation);
  pthread_join(g_helper.handle, nullptr);
  pthread_setcancelstate(cancellation, nullptr);
  g_helper.joinable = false;
}

bool ensure_running() noexcept {
  if (g_helper.parked.load(std::memory_order_seq_cst)) return true;  // started when it is over
  if (g_helper.running.load(std::memory_order_seq_cst)) return true;
  Locked starting(g_helper.start_lock);
  if (starting.reentered()) return true;  // the frame below is starting it
  if (g_helper.parked.load(std::memory_order_seq_cst)) return true;  // since then
  if (g_helper.running.load(std::memory_order_seq_cst)) return true;
  join_last();
  if (make_descriptors()) {
    g_helper.running.store(true, std::memory_order_seq_cst);
    if (start_thread()) return true;
    g_helper.running.store(false, std::memory_order_seq_cst);
  }
  close_descriptors();
  return false;
}

std::int64_t monotonic_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void notify_helper(Slot &slot) noexcept {
  const int saved = errno;
  follow_fork();
  Local &mine = local(slot);
  if (!mine.in_inbox.exchange(true, std::memory_order_acq_rel)) {
    Slot *head = g_helper.inbox.load(std::memory_order_relaxed);
    do {
      mine.next_in_inbox.store(head, std::memory_order_relaxed);
    } while (!g_helper.inbox.compare_exchange_weak(head, &slot, std::memory_order_seq_cst));
  }
  if (!ensure_running()) {
    // No thread, no handshake: waiting for one would be for ever.
    if (slot.state.load(std::memory_order_acquire) != State::established) {
      fail_closed(slot, static_cast<int>(mine.descriptor) - 1, policy::Reason::out_of_resources,
                  "the helper thread cannot be started");
    }
  } else {
    wake();
  }
  errno = saved;
}

void wake_helper() noexcept {
  const int saved = errno;
  if (!boot::sandboxed() && !in_foreign_process() && ensure_running()) wake();
  errno = saved;
}

void keep_watch() noexcept {
  follow_fork();
  if (g_helper.running.load(std::memory_order_relaxed) || g_helper.cannot_start) return;
  // A child that goes on with an inherited session. Not a vfork child: its memory is its parent's.
  if (boot::sandboxed() || in_foreign_process()) return;
  const int saved = errno;
  if (!ensure_running()) g_helper.cannot_start = true;
  errno = saved;
}

}  // namespace inlay::shim
