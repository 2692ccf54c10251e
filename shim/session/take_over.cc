// The sessions that came over exec. Nothing of this image has run yet: whatever a slot says this
// process does with it was done by the image before.
#include <linux/futex.h>

#include <cerrno>
#include <climits>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/log.h"
#include "shim/session/hand_over.h"
#include "shim/session/holders.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/open_descriptors.h"

namespace inlay::shim {
namespace {

using policy::Reason;

// This process becomes the holder that was put there for it, and notes what the count was before
// its own descriptors are counted.
void claim(Slot &slot, Participant token) noexcept {
  slot.life_lock.release_for(this_thread());
  Locked life(slot.life_lock);
  Holder *before = find_holder(slot, this_process());
  Holder *expected = token == 0 ? nullptr : find_holder(slot, token);
  if (expected != nullptr && before == nullptr) {
    Participant mark = token;
    // The parent may just have put the number itself.
    expected->who.compare_exchange_strong(mark, this_process(), std::memory_order_acq_rel);
    before = expected;
  } else if (expected != nullptr) {
    expected->descriptors.store(0, std::memory_order_release);
    expected->who.store(0, std::memory_order_release);
  }
  local(slot).descriptors_before =
      before == nullptr ? 0 : before->descriptors.load(std::memory_order_acquire);
}

// True when a thread of the image before was stopped while it held what guards the session's data,
// or while the kernel was taking bytes of the tail.
bool was_torn(Slot &slot) noexcept {
  bool sending = slot.send_lock.release_for(this_thread());
  bool receiving = slot.receive_lock.release_for(this_thread());
  std::atomic<Participant> &flusher = slot.sending.flusher;
  Participant thread = flusher.load(std::memory_order_acquire);
  bool flushing = thread != 0 && (thread == this_thread() || !lives(&slot, thread));
  if (flushing) {
    flusher.store(0, std::memory_order_release);
    kernel::call(SYS_futex, kernel::word(&flusher), FUTEX_WAKE, INT_MAX);
  }
  return sending || receiving || flushing;
}

// None of its descriptors is left in this process.
void let_go(Slot &slot) noexcept {
  {
    Locked life(slot.life_lock);
    release_holder(slot, this_process());
    if (held_elsewhere(slot)) return;
    set_state(slot, State::failed);
  }
  free_slot(slot);
}

void go_on(Slot &slot, int fd) noexcept {
  State state = slot.state.load(std::memory_order_acquire);
  bool unfinished = state == State::connecting || state == State::handshaking;
  if (was_torn(slot)) {
    poison(slot, fd);
  } else if (unfinished && slot.owner.load(std::memory_order_acquire) == this_process()) {
    // The handshake's keys are gone with the image that had them.
    fail_closed(slot, fd, Reason::inherited_unknown, "executed before the handshake was over");
  } else if (state == State::waiting && !held_elsewhere(slot)) {
    show_readiness(slot, fd);  // no helper polls it any more
  } else if (state == State::established && slot.output_pending.load(std::memory_order_acquire)) {
    notify_helper(slot);
  }
}

}  // namespace

void take_over(const Inheritance &inherited) noexcept {
  bool any = false;
  for (unsigned i = 0; i < inherited.count; ++i) any |= adopt_arena(inherited.arenas[i]);
  if (!any) return;
  boot::log_own_id(own_id_in_arena(0));
  for_each_slot([&](Slot &slot) { claim(slot, inherited.token); });
  for_each_open_descriptor([](int fd) {
    Slot *slot = session_of(fd);
    if (slot != nullptr) join_session(*slot, fd);
  });
  for_each_slot([](Slot &slot) {
    Local &mine = local(slot);
    mine.inherited = true;
    std::int32_t before = mine.descriptors_before;
    mine.descriptors_before = 0;
    Holder *holder = find_holder(slot, this_process());
    if (before != 0 && holder != nullptr) {
      holder->descriptors.fetch_sub(before, std::memory_order_acq_rel);
    }
    if (mine.descriptor != 0) {
      go_on(slot, static_cast<int>(mine.descriptor) - 1);
    } else if (before != 0) {
      let_go(slot);
    }
  });
}

}  // namespace inlay::shim
