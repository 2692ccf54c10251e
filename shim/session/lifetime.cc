// Closing, duplicating, ending. The last live holder of a connection sends close_notify; whatever
// the connection still owes then (an unfinished handshake, early data, a tail) is finished by the
// helper on a descriptor of inlay's own, after the program's number is free.
#include "shim/session/lifetime.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/hooks/next.h"
#include "shim/session/helper.h"
#include "shim/session/holders.h"
#include "shim/session/internal.h"
#include "shim/session/leaving.h"
#include "shim/session/receive.h"
#include "shim/session/session.h"
#include "shim/session/under_way.h"
#include "shim/session/untouched.h"

namespace inlay::shim {
namespace {

using policy::Event;
using policy::Reason;

// How long the end of the process waits for what connections owe, without progress.
constexpr std::int64_t kExitPatienceNs = 5'000'000'000;

std::atomic<std::uint32_t> g_lingering{0};

std::uint64_t closing_word() noexcept { return managed_word(&closing_session()); }

// Another number of this process that names the session.
int other_descriptor(Slot &slot, int not_this) noexcept {
  std::uint64_t word = managed_word(&slot);
  for (int fd = 0; fd <= highest_descriptor(); ++fd) {
    if (fd != not_this && descriptor_word(fd) == word) return fd;
  }
  return -1;
}

bool resets_on_close(int fd) noexcept {
  linger value{};
  socklen_t length = sizeof(value);
  return kernel::get_option(fd, SOL_SOCKET, SO_LINGER, &value, &length) == 0 &&
         value.l_onoff != 0 && value.l_linger == 0;
}

void log_end(Slot &slot, int fd) noexcept {
  if (slot.state.load(std::memory_order_acquire) != State::established) return;
  if (slot.reason.load(std::memory_order_acquire) == Reason::reset_by_peer) {
    report(&slot, fd, Event::cut, Reason::reset_by_peer, "");
  } else {
    report(&slot, fd, Event::closed, Reason::closed, "");
  }
}

// Puts close_notify behind everything else and sends what the kernel takes. True when nothing is
// owed any more, as also where somebody died while it sent: then this is no orderly end.
bool send_the_rest(Slot &slot, int fd) noexcept {
  int error = 0;
  {
    Locked guard(slot.send_lock);
    if (guard.reentered()) return true;
    if (guard.owner_gone()) {
      error = EOWNERDEAD;
    } else {
      slot.sending.shut_requested = true;
      if (push_output(slot, fd, &error) == Push::pending) return false;
    }
  }
  if (error == EOWNERDEAD) poison(slot, fd);
  return true;
}

// The program's last descriptor goes while bytes are owed: inlay keeps one of its own. False when
// it can't: the bytes are lost, as with a kill.
bool start_linger(Slot &slot, int fd) noexcept {
  if (boot::sandboxed()) return false;  // the filter may know none of these calls
  Local &mine = local(slot);
  int own = copy_own(fd);
  if (own < 0) return false;
  // The copy keeps the description alive: without this the program's epoll sets would go on
  // reporting a descriptor it closed.
  leave_watches(mine, fd);
  mine.descriptor = static_cast<std::uint32_t>(own) + 1;
  mine.hidden = true;
  g_lingering.fetch_add(1, std::memory_order_acq_rel);
  return true;
}

void request_end(Slot &slot) noexcept {
  Locked guard(slot.send_lock);
  slot.sending.shut_requested = true;
}

// Established, and nobody has asked for the end yet.
bool end_is_due(Slot &slot) noexcept {
  if (slot.state.load(std::memory_order_acquire) != State::established) return false;
  Locked guard(slot.send_lock);
  return !guard.reentered() && !guard.owner_gone() && !slot.sending.shut_requested;
}

enum class End : std::uint8_t { other_descriptors, ended, lingers };

// Calls of other threads that found the number to be the session's do their system call on it under
// these locks, or sleep: it may have another file as soon as they are there.
void let_calls_through(Slot &slot) noexcept {
  slot.receive_lock.outwait();
  slot.send_lock.outwait();
  let_sleep(slot);
}

End end_with_descriptor(Slot &slot, int fd) noexcept {
  Locked life(slot.life_lock);
  struct Leaving {
    int fd;
    ~Leaving() { leaves(fd); }
  } leaving{fd};
  Local &mine = local(slot);
  Holder *holder = find_holder(slot, this_process());
  if (holder != nullptr && holder->descriptors.fetch_sub(1, std::memory_order_acq_rel) > 1) {
    if (mine.descriptor == static_cast<std::uint32_t>(fd) + 1) {
      mine.descriptor = static_cast<std::uint32_t>(other_descriptor(slot, fd) + 1);
    } else if (mine.hidden && other_descriptor(slot, fd) < 0 && !held_elsewhere(slot)) {
      // Closed, received again and closed, all before the helper was done with the first time.
      request_end(slot);
      notify_helper(slot);
    }
    return End::other_descriptors;
  }
  if (is_called(slot, fd) && start_linger(slot, fd)) {
    // Another thread's call has it until it returns (under_way.h).
    if (holder != nullptr) holder->descriptors.store(1, std::memory_order_release);
    notify_helper(slot);
    return End::lingers;
  }
  bool last = !held_elsewhere(slot);
  State state = slot.state.load(std::memory_order_acquire);
  // The acceptor's helper will not see to it any more: another holder's select() must.
  // A process that inherited the descriptor over exec is no holder yet, hence also when last.
  if (state == State::waiting && mine.acceptor != 0) show_readiness(slot, fd);
  bool mine_to_finish = slot.owner.load(std::memory_order_acquire) == this_process();
  bool owes = false;
  if (last && resets_on_close(fd)) {
    // SO_LINGER 0: dropped and reset, as the program asked.
  } else if (state == State::established && last) {
    // With data left unread the kernel answers close() with a reset and drops what it has not sent:
    // a close_notify in front of that would turn the peer's ECONNRESET into an orderly end.
    owes = !swallow_control_records(slot, fd) && !send_the_rest(slot, fd);
  } else if (((state == State::handshaking || state == State::connecting) && mine_to_finish) ||
             (state == State::waiting && last && begin_to_end(slot, fd))) {
    // Others wait for the handshake, or the peer is owed early data and an orderly end.
    owes = true;
    if (last) request_end(slot);
  }
  if (owes && start_linger(slot, fd)) {
    if (holder != nullptr) holder->descriptors.store(1, std::memory_order_release);
    notify_helper(slot);
    return End::lingers;
  }
  log_end(slot, fd);
  release_holder(slot, this_process());
  mine.descriptor = 0;
  if (last) {
    // In-flight calls of other threads see the word, the new state, then the new generation.
    leaves(fd);
    set_state(slot, State::failed);
    life.unlock();
    free_slot(slot);
  } else {
    drop_local(slot);
  }
  return End::ended;
}

// Ends what `fd` names, all but the close itself, after which has_left() is due.
End end_descriptor(Slot &slot, int fd) noexcept {
  End end = end_with_descriptor(slot, fd);
  let_calls_through(slot);
  return end;
}

}  // namespace

std::atomic<std::uint32_t> &lingering() noexcept { return g_lingering; }

namespace {

void count_off_lingering() noexcept {
  if (g_lingering.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    kernel::call(SYS_futex, kernel::word(&g_lingering), FUTEX_WAKE, 1 << 30);
  }
}

// The program closed its last descriptor, and got another in a message while the helper finished
// with `own`. True when that goes on.
bool received_again(Slot &slot, int own) noexcept {
  Locked life(slot.life_lock);
  int other = other_descriptor(slot, own);
  if (other < 0) return false;
  Local &mine = local(slot);
  mine.descriptor = static_cast<std::uint32_t>(other) + 1;
  mine.hidden = false;
  mine.closed = 0;
  if (Holder *holder = find_holder(slot, this_process())) {
    holder->descriptors.fetch_sub(1, std::memory_order_acq_rel);
  }
  close_own(own);
  return true;
}

}  // namespace

void finish_linger(Slot &slot) noexcept {
  Local &mine = local(slot);
  int own = static_cast<int>(mine.descriptor) - 1;
  if (received_again(slot, own)) return count_off_lingering();
  bool last = false;
  {
    Locked life(slot.life_lock);
    last = !held_elsewhere(slot);
    bool unread = last && swallow_control_records(slot, own);
    if (last && !unread && !resets_on_close(own) && end_is_due(slot)) {
      // Whoever else had it is gone meanwhile, and left the end to this process.
      request_end(slot);
      notify_helper(slot);
      return;
    }
    mine.descriptor = 0;
    mine.hidden = false;
    mine.closed = 0;
    log_end(slot, own);
    release_holder(slot, this_process());
  }
  close_own(own);
  if (last) {
    set_state(slot, State::failed);
    free_slot(slot);
  } else {
    drop_local(slot);
  }
  count_off_lingering();
}

// life_lock held.
static void add_to(Slot &slot, int fd) noexcept {
  // By another thread, just now.
  if (descriptor_word(fd) == managed_word(&slot) && find_holder(slot, this_process()) != nullptr) return;
  add_descriptor(slot, this_process());
  Local &mine = local(slot);
  if (mine.descriptor == 0) mine.descriptor = static_cast<std::uint32_t>(fd) + 1;
  set_descriptor_word(fd, managed_word(&slot));
}

void join_session(Slot &slot, int fd) noexcept {
  Locked life(slot.life_lock);
  add_to(slot, fd);
}

bool join_living(Slot &slot, int fd, std::uint64_t cookie) noexcept {
  Locked life(slot.life_lock);
  State state = slot.state.load(std::memory_order_acquire);
  bool ends = state == State::free || slot.cookie.load(std::memory_order_acquire) != cookie ||
              // Failed, and nobody has it any more: the slot is about to be free.
              (state == State::failed && find_holder(slot, this_process()) == nullptr &&
               !held_elsewhere(slot));
  if (!ends) {
    add_to(slot, fd);
    return true;
  }
  Local &mine = local(slot);
  if (mine.descriptor == static_cast<std::uint32_t>(fd) + 1) mine.descriptor = 0;
  return false;
}

void expect_child() noexcept {
  note_giving();
  for (int fd = 0; fd <= highest_descriptor(); ++fd) {
    std::uint64_t word = descriptor_word(fd);
    if ((word & kManagedBit) != 0) expect_holder(*reinterpret_cast<Slot *>(word & ~kManagedBit));
  }
}

void join_as_child(Slot &slot, int fd) noexcept {
  if (is_leaving(slot)) set_descriptor_word(fd, closing_word());  // by a thread that is not here
  if (is_closing(slot)) return;
  if (slot.cookie.load(std::memory_order_acquire) == 0) {
    set_descriptor_word(fd, closing_word());  // it ended before this process could run
    return;
  }
  join_session(slot, fd);
  expected_holder_came(slot);
}

void join_late(Slot &slot, int fd) noexcept {
  if (is_closing(slot)) return;
  if (!join_living(slot, fd, cookie_of(fd))) set_descriptor_word(fd, closing_word());
}

void forget_session(Slot &slot, int fd) noexcept {
  if (is_closing(slot)) {
    set_descriptor_word(fd, kSocket);
    return;
  }
  std::uint64_t word = managed_word(&slot);
  for (int other = 0; other <= highest_descriptor(); ++other) {
    if (descriptor_word(other) != word) continue;
    set_descriptor_word(other, kSocket);
  }
  set_descriptor_word(fd, kSocket);
  drop_session(slot);
}

void drop_session(Slot &slot) noexcept {
  {
    Locked life(slot.life_lock);
    local(slot).descriptor = 0;
    release_holder(slot, this_process());
    set_state(slot, State::failed);
    if (held_elsewhere(slot)) return;
  }
  free_slot(slot);
}

int close_managed(Slot &slot, int fd) {
  if (is_closing(slot)) {
    // Refused without a slot, or two threads close it: the kernel decides.
    int closed = next.close(fd);
    if (closed == 0) has_left(fd);
    return closed;
  }
  // A cancelled thread closes nothing (the C library acts on the request before the system call),
  // and once the session has ended the descriptor must go too.
  pthread_testcancel();
  end_descriptor(slot, fd);
  long result = kernel::close(fd);
  has_left(fd);
  if (result == 0) return 0;
  errno = static_cast<int>(-result);
  return -1;
}

void before_replace(Slot &slot, int to) noexcept {
  if (!is_closing(slot)) end_descriptor(slot, to);
}

void duplicated(Slot &slot, int, int to) noexcept {
  if (is_closing(slot)) return;
  int saved = errno;
  if (local(slot).acceptor == 0) hand_on(slot, to);
  join_session(slot, to);
  errno = saved;
}

void before_close_range(unsigned first, unsigned last) noexcept {
  int highest = highest_descriptor();
  if (first > static_cast<unsigned>(INT_MAX)) return;
  for (int fd = static_cast<int>(first); fd <= highest && static_cast<unsigned>(fd) <= last; ++fd) {
    std::uint64_t word = descriptor_word(fd);
    if ((word & kManagedBit) != 0) {
      before_replace(*reinterpret_cast<Slot *>(word & ~kManagedBit), fd);
    } else if (word != kOwn) {
      forget_file(fd);
    }
  }
}

void after_close_range(unsigned first, unsigned last) noexcept {
  int highest = highest_descriptor();
  for (int fd = first > static_cast<unsigned>(INT_MAX) ? INT_MAX : static_cast<int>(first);
       fd <= highest && static_cast<unsigned>(fd) <= last; ++fd) {
    has_left(fd);
  }
}

// What a connection that survives exec owes leaves now: the new image knows nothing of it. Bounded,
// as at exit.
static void settle(Slot &slot, int fd) noexcept {
  std::int64_t end = monotonic_ns() + kExitPatienceNs;
  while (monotonic_ns() < end) {
    State state = slot.state.load(std::memory_order_acquire);
    timespec look{0, 20'000'000};
    if (state == State::connecting || state == State::handshaking) {
      kernel::call(SYS_futex, kernel::word(&slot.state), FUTEX_WAIT, static_cast<long>(state),
                   kernel::word(&look));
      continue;
    }
    if (state != State::established) return;
    {
      Locked guard(slot.send_lock);
      int error = 0;
      if (guard.reentered() || guard.owner_gone() ||
          push_output(slot, fd, &error) != Push::pending) {
        return;
      }
    }
    pollfd writable{fd, POLLOUT, 0};
    kernel::call(SYS_ppoll, kernel::word(&writable), 1, kernel::word(&look), 0, 8);
  }
}

void flush_everything(bool will_exec) noexcept {
  if (g_descriptor_words == nullptr || in_foreign_process()) return;
  forget_calls();
  for (int fd = 0; fd <= highest_descriptor(); ++fd) {
    std::uint64_t word = descriptor_word(fd);
    if ((word & kManagedBit) == 0) continue;
    Slot &slot = *reinterpret_cast<Slot *>(word & ~kManagedBit);
    if (is_closing(slot)) continue;
    if (will_exec && (kernel::call(SYS_fcntl, fd, F_GETFD) & FD_CLOEXEC) == 0) {
      settle(slot, fd);
      continue;
    }
    end_descriptor(slot, fd);
  }
  timespec patience{kExitPatienceNs / 1'000'000'000, 0};
  for (std::uint32_t left = g_lingering.load(std::memory_order_acquire); left != 0;
       left = g_lingering.load(std::memory_order_acquire)) {
    long slept = kernel::call(SYS_futex, kernel::word(&g_lingering), FUTEX_WAIT,
                              static_cast<long>(left), kernel::word(&patience));
    if (slept == -ETIMEDOUT) break;
  }
}

}  // namespace inlay::shim
