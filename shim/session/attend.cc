// The helper's work: one task per session, moved on by attend() as far as it goes without waiting.
//
//   attend(): connecting:  wait for TCP       waiting: judge_untouched()
//             handshaking: step_handshake()   established: push_output()
//
// It works on the program's own descriptor under the slot's life_lock, so that close() waits for
// the end of a step and the number cannot be reused under it.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#include <algorithm>
#include <new>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/agent_link.h"
#include "shim/session/handshake_task.h"
#include "shim/session/helper.h"
#include "shim/session/helper_state.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/session.h"
#include "shim/session/under_way.h"
#include "shim/session/untouched.h"

namespace inlay::shim {
namespace {

constexpr std::int64_t kPollFirstNs = 1'000'000;  // looking for hidden handshake bytes: back-off
constexpr std::int64_t kPollLastNs = 16'000'000;
constexpr std::int64_t kCalledNs =
    1'000'000'000;                            // looking for a call that has a closed connection
constexpr std::size_t kHalfOpenLimit = 4096;  // unfinished inbound handshakes of this process

void unlink_task(Task &task) noexcept {
  if (task.previous != nullptr) task.previous->next = task.next;
  if (task.next != nullptr) task.next->previous = task.previous;
  if (g_helper.tasks == &task) g_helper.tasks = task.next;
}

void delete_task(Task *task) noexcept {
  g_helper.half_open.remove(*task);
  unlink_task(*task);
  forget_signature(*task);
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

void poll_later(Task &task) noexcept {
  task.poll_after_ns = std::clamp(task.poll_after_ns * 2, kPollFirstNs, kPollLastNs);
  task.poll_at_ns = monotonic_ns() + task.poll_after_ns;
}

// One-shot, so that a registration left behind by a number that was closed and reused fires at most
// once, into nothing. Where the set has no room for it (epoll_ctl(2): ENOMEM, ENOSPC) somebody
// looks.
void arm(Task &task, int fd, std::uint32_t events) noexcept {
  epoll_event event{};
  event.events = events | EPOLLONESHOT;
  event.data.ptr = task.slot;
  auto set = [&](int operation) noexcept {
    return kernel::call(SYS_epoll_ctl, g_helper.epoll, operation, fd, kernel::word(&event));
  };
  if (task.registered == fd && set(EPOLL_CTL_MOD) == 0) return;
  long added = set(EPOLL_CTL_ADD);
  if (added == -EEXIST) added = set(EPOLL_CTL_MOD);
  task.registered = fd;
  if (added != 0) poll_later(task);
}

int tcp_state(int fd) noexcept {
  tcp_info info{};
  socklen_t length = sizeof(info);
  // Not said: sending tells.
  if (kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return TCP_ESTABLISHED;
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
  // Its task ends when its turn comes; its memory goes now, or a burst of newer ones would take
  // theirs first.
  forget_signature(oldest);
  oldest.signature_request = 0;
  oldest.wants_signature = false;
  oldest.agent_since_ns = 0;
  oldest.handshake.reset();
  notify_helper(slot);
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

// An accepted blocking socket whose handshake bytes are hidden: the program can't be woken by them,
// so this process sees to the handshake unless somebody touches the socket first (untouched.h).
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
  Participant nobody = 0;
  if (!slot.owner.compare_exchange_strong(nobody, this_process(), std::memory_order_acq_rel)) {
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
    case HandshakeStep::wants_agent:
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
  bool gone = false;
  {
    Locked guard(slot.send_lock);
    gone = guard.owner_gone();
    if (!gone) pushed = push_output(slot, fd, &error);
  }
  if (gone) {
    poison(slot, fd);
    return Next::end;
  }
  if (slot.writer_starved.exchange(false, std::memory_order_acq_rel)) refire_writable(fd);
  if (pushed == Push::pending) {
    arm(task, fd, EPOLLOUT);
    return Next::keep;
  }
  if (pushed != Push::failed) return Next::end;
  if (tcp_state(fd) == TCP_CLOSE) {
    // What came before the reset can still be read, as with TCP: the reader ends the session.
    slot.reason.store(policy::Reason::reset_by_peer, std::memory_order_release);
  } else {
    fail_closed(slot, fd, reason_of_send(error));
  }
  return Next::end;
}

bool has_deadline(const Task &task) noexcept {
  return task.handshake != nullptr || task.agent_since_ns != 0;
}

}  // namespace

void attend(Slot &slot) noexcept {
  Locked life(slot.life_lock);
  if (life.reentered()) return;
  Local &mine = local(slot);
  int fd = static_cast<int>(mine.descriptor) - 1;
  if (fd < 0 || slot.cookie.load(std::memory_order_acquire) == 0) {
    end_task(slot);
    return;
  }
  Task *task = mine.task;
  if (task != nullptr && task->generation != slot.generation.load(std::memory_order_relaxed)) {
    end_task(slot);
  }
  task = ensure_task(slot);
  if (task == nullptr) {
    fail_closed(slot, fd, policy::Reason::out_of_resources, "no memory for a handshake");
  }
  Next next_step = task == nullptr ? Next::end : Next::keep;
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
        next_step = slot.owner.load(std::memory_order_acquire) == this_process()
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
  if (mine.hidden && mine.closed != 0 && is_still_called(slot)) {
    // Told when the call returns; unless its thread was cancelled, or jumped away.
    task->poll_after_ns = std::clamp(task->poll_after_ns * 2, kPollFirstNs, kCalledNs);
    task->poll_at_ns = monotonic_ns() + task->poll_after_ns;
    return;
  }
  end_task(slot);
  if (mine.hidden) {
    life.unlock();
    finish_linger(slot);
  }
}

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
    if (task->poll_at_ns != 0 && task->poll_at_ns <= now) {
      task->poll_at_ns = 0;
      attend(slot);
    }
    if (local(slot).task == task && has_deadline(*task) && deadline_left(*task, now) <= 0) {
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
      if (has_deadline(*task)) due_in(deadline_left(*task, now));
    }
    task = following;
  }
  return next_in;
}

void resume_tasks() noexcept {
  Locked working(g_helper.work_lock);
  for (Task *task = g_helper.tasks; task != nullptr;) {
    Task *following = task->next;
    task->registered = -1;
    if (local(*task->slot).task == task) attend(*task->slot);
    task = following;
  }
}

void take_ownership(Slot &slot, int fd) noexcept {
  if (slot.state.load(std::memory_order_acquire) != State::waiting) return;
  Participant nobody = 0;
  if (!slot.owner.compare_exchange_strong(nobody, this_process(), std::memory_order_acq_rel))
    return;
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
