// The helper: inlay's own thread in the process. It drives handshakes, sends early data and tails
// nobody else sends, and finishes what closed connections owe. Hooks only move bytes and wait, so
// libssl never runs in a signal handler, on a coroutine's stack or across a fork.
//
//   a hook --notify_helper--> inbox (lock-free) --> task (one per session) --attend()-->
//       connecting:  wait for TCP       handshaking: step_handshake()      established: push_output()
//
// It works on the program's own descriptor under the slot's life_lock, so that close() waits for the
// end of a step and the number cannot be reused under it. The thread starts on demand and ends when
// nothing is left to do.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <memory>
#include <new>
#include <vector>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/session/fork.h"
#include "shim/session/handshake_task.h"
#include "shim/session/helper.h"
#include "shim/session/helper_state.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/policy_watch.h"
#include "shim/session/session.h"
#include "shim/session/untouched.h"

namespace inlay::shim {
namespace {

constexpr std::size_t kStackSize = 512 * 1024;
constexpr std::int64_t kIdleNs = 2'000'000'000;  // how long a helper without work stays
constexpr std::int64_t kPollFirstNs = 1'000'000;   // looking for hidden handshake bytes: back-off
constexpr std::int64_t kPollLastNs = 16'000'000;
constexpr std::int64_t kWatchNs = 1'000'000'000;  // between looks at the policy, with sessions open
constexpr std::size_t kHalfOpenLimit = 4096;     // unfinished inbound handshakes of this process


void unlink_task(Task &task) noexcept {
  if (task.previous != nullptr) task.previous->next = task.next;
  if (task.next != nullptr) task.next->previous = task.previous;
  if (g_helper.tasks == &task) g_helper.tasks = task.next;
}

void delete_task(Task *task) noexcept {
  g_helper.half_open.remove(*task);
  unlink_task(*task);
  delete task;
}

// life_lock held.
void end_task(Slot &slot) noexcept {
  Local &mine = local(slot);
  Task *task = mine.task;
  if (task == nullptr) return;
  mine.task = nullptr;
  if (task->registered >= 0) {
    kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_DEL, task->registered, 0);
  }
  delete_task(task);
}

Task *ensure_task(Slot &slot) noexcept {
  Local &mine = local(slot);
  if (mine.task != nullptr) return mine.task;
  Task *task = new (std::nothrow) Task;
  if (task == nullptr) return nullptr;
  task->slot = &slot;
  task->generation = slot.generation.load(std::memory_order_relaxed);
  task->started_ns = monotonic_ns();
  task->next = g_helper.tasks;
  if (g_helper.tasks != nullptr) g_helper.tasks->previous = task;
  g_helper.tasks = task;
  mine.task = task;
  return task;
}

// One-shot, so that a registration left behind by a number that was closed and reused fires at most
// once, into nothing.
void arm(Task &task, int fd, std::uint32_t events) noexcept {
  epoll_event event{};
  event.events = events | EPOLLONESHOT;
  event.data.ptr = task.slot;
  if (task.registered == fd &&
      kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_MOD, fd, kernel::word(&event)) == 0) {
    return;
  }
  if (kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_ADD, fd, kernel::word(&event)) == -EEXIST) {
    kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_MOD, fd, kernel::word(&event));
  }
  task.registered = fd;
}

int tcp_state(int fd) noexcept {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return TCP_CLOSE;
  return info.tcpi_state;
}

enum class Next : std::uint8_t { keep, end, ended };

// The oldest unfinished inbound handshake makes room.
void bound_half_open(Task &newest) noexcept {
  if (newest.slot->direction != policy::Direction::inbound) return;
  g_helper.half_open.add(newest);
  if (g_helper.half_open.size() <= kHalfOpenLimit) return;
  auto &oldest = static_cast<Task &>(*g_helper.half_open.oldest());
  g_helper.half_open.remove(oldest);
  Slot &slot = *oldest.slot;
  Locked life(slot.life_lock);  // its number must not become another connection's meanwhile
  if (life.reentered() || local(slot).task != &oldest ||
      oldest.generation != slot.generation.load(std::memory_order_relaxed)) {
    return;  // closed: it holds no place any more
  }
  fail_closed(slot, static_cast<int>(local(slot).descriptor) - 1, policy::Reason::half_open_limit);
  notify_helper(slot);  // its task ends
}

Next attend_connecting(Slot &slot, int fd, Task &task) noexcept {
  switch (tcp_state(fd)) {
    case TCP_SYN_SENT:
    case TCP_SYN_RECV:
      arm(task, fd, EPOLLOUT | EPOLLRDHUP);
      return Next::keep;
    case TCP_CLOSE:
      return Next::end;  // the program learns why from the kernel; connect() or close() cleans up
    default:
      set_state(slot, State::handshaking);
      return Next::keep;
  }
}

void poll_later(Task &task) noexcept {
  task.poll_after_ns = std::clamp(task.poll_after_ns * 2, kPollFirstNs, kPollLastNs);
  task.poll_at_ns = monotonic_ns() + task.poll_after_ns;
}

// An accepted blocking socket whose handshake bytes are hidden: the program can't be woken by them, so
// this process sees to the handshake unless somebody touches the socket first (untouched.h).
Next attend_waiting(Slot &slot, int fd, Task &task) noexcept {
  if (!slot.hides_readiness.load(std::memory_order_acquire)) return Next::end;
  switch (judge_untouched(slot, fd, monotonic_ns() - task.started_ns)) {
    case Untouched::wait:
      poll_later(task);
      return Next::keep;
    case Untouched::hand_on:
      hand_on(slot, fd);
      return Next::end;
    case Untouched::begin:
      break;
  }
  task.poll_at_ns = 0;
  task.poll_after_ns = 0;
  std::uint32_t nobody = 0;
  if (!slot.owner.compare_exchange_strong(nobody, process_id(), std::memory_order_acq_rel)) {
    return Next::end;
  }
  State waiting = State::waiting;
  if (slot.state.compare_exchange_strong(waiting, State::handshaking, std::memory_order_acq_rel)) {
    set_state(slot, State::handshaking);
  }
  return Next::keep;
}

Next attend_handshaking(Slot &slot, int fd, Task &task) noexcept {
  bound_half_open(task);
  task.poll_at_ns = 0;
  switch (step_handshake(slot, fd, task)) {
    case HandshakeStep::wants_read:
      unquiet_readiness(slot, fd);
      if (slot.hides_readiness.load(std::memory_order_acquire)) poll_later(task);
      arm(task, fd, EPOLLIN | EPOLLRDHUP);
      return Next::keep;
    case HandshakeStep::wants_write:
      arm(task, fd, EPOLLOUT | EPOLLRDHUP);
      return Next::keep;
    case HandshakeStep::established:
      task.handshake.reset();
      g_helper.half_open.remove(task);
      return Next::keep;
    case HandshakeStep::failed:
      break;
  }
  return Next::end;
}

Next attend_established(Slot &slot, int fd, Task &task) noexcept {
  int error = 0;
  Push pushed = Push::done;
  {
    Locked guard(slot.send_lock);
    if (!guard.owner_gone()) pushed = push_output(slot, fd, &error);
  }
  if (slot.writer_starved.exchange(false, std::memory_order_acq_rel)) refire_writable(fd);
  if (pushed == Push::pending) {
    arm(task, fd, EPOLLOUT);
    return Next::keep;
  }
  if (pushed == Push::failed) fail_closed(slot, fd, policy::Reason::reset_by_peer);
  return Next::end;
}

// Moves one session on as far as it goes without waiting.
void attend(Slot &slot) noexcept {
  Locked life(slot.life_lock);
  if (life.reentered()) return;
  Local &mine = local(slot);
  int fd = static_cast<int>(mine.descriptor) - 1;
  if (fd < 0 || slot.cookie.load(std::memory_order_acquire) == 0) {
    end_task(slot);
    return;
  }
  if (mine.task != nullptr &&
      mine.task->generation != slot.generation.load(std::memory_order_relaxed)) {
    end_task(slot);
  }
  Task *task = ensure_task(slot);
  if (task == nullptr) {
    fail_closed(slot, fd, policy::Reason::out_of_resources, "no memory for a handshake");
    return;
  }
  Next next_step = Next::keep;
  for (State before = State::free; next_step == Next::keep;) {
    State state = slot.state.load(std::memory_order_acquire);
    if (state == before) break;  // no movement: something is armed
    before = state;
    switch (state) {
      case State::waiting:
        next_step = attend_waiting(slot, fd, *task);
        break;
      case State::connecting:
        next_step = attend_connecting(slot, fd, *task);
        break;
      case State::handshaking:
        next_step = slot.owner.load(std::memory_order_acquire) == process_id()
                        ? attend_handshaking(slot, fd, *task)
                        : Next::end;
        break;
      case State::established:
        next_step = attend_established(slot, fd, *task);
        break;
      default:
        next_step = Next::end;
        break;
    }
  }
  if (next_step != Next::end) return;
  end_task(slot);
  if (mine.hidden) {
    life.unlock();
    finish_linger(slot);
  }
}

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

// Sees to what is due by the clock; returns how long until something else is, -1 for never.
std::int64_t check_deadlines() noexcept {
  std::int64_t now = monotonic_ns();
  std::int64_t next_in = -1;
  auto due_in = [&next_in](std::int64_t left) {
    left = std::max<std::int64_t>(left, 0);
    if (next_in < 0 || left < next_in) next_in = left;
  };
  for (Task *task = g_helper.tasks; task != nullptr;) {
    Task *following = task->next;
    Slot &slot = *task->slot;
    if (task->generation != slot.generation.load(std::memory_order_acquire) ||
        local(slot).task != task) {
      delete_task(task);  // the program closed it and the slot went on without us
      task = following;
      continue;
    }
    if (task->poll_at_ns != 0 && task->poll_at_ns <= now) attend(slot);
    if (local(slot).task == task && task->handshake != nullptr && deadline_left(*task, now) <= 0) {
      bool passed = false;
      {
        Locked life(slot.life_lock);
        int fd = static_cast<int>(local(slot).descriptor) - 1;
        passed = fd >= 0 && local(slot).task == task && deadline_passed(slot, fd, *task);
      }
      if (passed) attend(slot);
    }
    if (local(slot).task == task) {
      if (task->poll_at_ns != 0) due_in(task->poll_at_ns - now);
      if (task->handshake != nullptr) due_in(deadline_left(*task, now));
    }
    task = following;
  }
  return next_in;
}

void sleep_until_work(std::int64_t at_most) noexcept {
  epoll_event events[64];
  g_helper.sleeping.store(true, std::memory_order_seq_cst);
  if (g_helper.inbox.load(std::memory_order_seq_cst) != nullptr) at_most = 0;
  int timeout = at_most < 0 ? -1 : static_cast<int>((at_most + 999'999) / 1'000'000);
  long count = kernel::call(SYS_epoll_pwait, g_helper.epoll, kernel::word(events), 64, timeout, 0, 8);
  g_helper.sleeping.store(false, std::memory_order_relaxed);
  Locked working(g_helper.work_lock);
  for (long i = 0; i < count; ++i) {
    auto *slot = static_cast<Slot *>(events[i].data.ptr);
    if (slot != nullptr) {
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
  close_descriptors();
  return true;
}

// What a parked thread left: armed in an epoll set that is gone.
void resume_tasks() noexcept {
  Locked working(g_helper.work_lock);
  for (Task *task = g_helper.tasks; task != nullptr;) {
    Task *following = task->next;
    task->registered = -1;
    if (local(*task->slot).task == task) attend(*task->slot);
    task = following;
  }
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
    }
    bool idle = g_helper.tasks == nullptr && !watching;
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

bool make_descriptors() noexcept {
  long epoll = kernel::call(SYS_epoll_create1, EPOLL_CLOEXEC);
  long wake = kernel::call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
  g_helper.epoll = epoll >= 0 ? make_own(static_cast<int>(epoll)) : -1;
  g_helper.wake = wake >= 0 ? make_own(static_cast<int>(wake)) : -1;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;
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
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStackSize);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  pthread_t thread;
  int error = pthread_create(&thread, &attributes, run, nullptr);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return error == 0;
}

}  // namespace

constinit Helper g_helper;

bool on_helper_thread() noexcept {
  return g_helper.thread.load(std::memory_order_relaxed) == current_thread_id();
}

bool ensure_running() noexcept {
  if (g_helper.parked.load(std::memory_order_seq_cst)) return true;  // helper_unpark() starts it
  if (g_helper.running.load(std::memory_order_seq_cst)) return true;
  Locked starting(g_helper.start_lock);
  if (starting.reentered()) return true;  // the frame below is starting it
  if (g_helper.running.load(std::memory_order_seq_cst)) return true;
  if (!make_descriptors()) return false;
  g_helper.running.store(true, std::memory_order_seq_cst);
  if (start_thread()) return true;
  g_helper.running.store(false, std::memory_order_seq_cst);
  return false;
}

std::int64_t monotonic_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void notify_helper(Slot &slot) noexcept {
  const int saved = errno;
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
  } else if (g_helper.sleeping.load(std::memory_order_seq_cst)) {
    std::uint64_t one = 1;
    kernel::call(SYS_write, g_helper.wake, kernel::word(&one), sizeof(one));
  }
  errno = saved;
}

void keep_watch() noexcept {
  if (g_helper.running.load(std::memory_order_relaxed) || g_helper.cannot_start) return;
  // A child that goes on with an inherited session. Not a vfork child: its memory is its parent's.
  if (boot::sandboxed() || in_foreign_process()) return;
  const int saved = errno;
  if (!ensure_running()) g_helper.cannot_start = true;
  errno = saved;
}

void take_ownership(Slot &slot, int fd) noexcept {
  if (slot.state.load(std::memory_order_acquire) != State::waiting) return;
  std::uint32_t nobody = 0;
  if (!slot.owner.compare_exchange_strong(nobody, process_id(), std::memory_order_acq_rel)) return;
  if (!is_fresh(fd)) {
    fail_closed(slot, fd, policy::Reason::inherited_unknown, "another program has begun on it");
    return;
  }
  Local &mine = local(slot);
  if (mine.descriptor == 0) mine.descriptor = static_cast<std::uint32_t>(fd) + 1;
  set_state(slot, State::handshaking);
  notify_helper(slot);
}

}  // namespace inlay::shim
