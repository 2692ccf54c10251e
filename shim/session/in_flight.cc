#include "shim/session/in_flight.h"

#include <cerrno>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/hooks/next.h"
#include "shim/session/cancel.h"
#include "shim/session/elsewhere.h"
#include "shim/session/holders.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/outgoing.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

// The session of a descriptor whose books this process keeps.
Slot *session_here(int fd) noexcept {
  std::uint64_t word = descriptor_word(fd);
  if ((word & kManagedBit) == 0 || in_foreign_process()) return nullptr;
  return reinterpret_cast<Slot *>(word & ~kManagedBit);
}

// One that nobody has touched needs no holder: whoever receives it begins anew.
bool has_begun(const Slot &slot) noexcept {
  State state = slot.state.load(std::memory_order_acquire);
  return state == State::connecting || state == State::handshaking || state == State::established;
}

// The process at the other end of a socket of AF_UNIX, or the one that made the pair; 0 unknown.
std::uint32_t sender_of(int fd) noexcept {
  ucred peer{};
  socklen_t length = sizeof(peer);
  bool known = kernel::get_option(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0;
  return known && peer.pid > 0 ? static_cast<std::uint32_t>(peer.pid) : 0;
}

struct Passing {
  int fd;
  const msghdr *message;
  mmsghdr *messages;
  unsigned count;
  int flags;
};

void expect(const msghdr *message) noexcept {
  for_each_outgoing(message, [](int fd) {
    Slot *slot = session_here(fd);
    if (slot == nullptr) return;
    local(*slot).accepted_at = 0;  // to end it is for whoever gets it (untouched.h)
    if (slot->state.load(std::memory_order_acquire) == State::waiting) {
      Locked life(slot->life_lock);  // the helper has begun by now, or never will
      hand_on(*slot, fd);
    }
    if (has_begun(*slot)) expect_holder(*slot);
  });
}

void take_back(const msghdr *message) noexcept {
  for_each_outgoing(message, [](int fd) {
    Slot *slot = session_here(fd);
    if (slot != nullptr && has_begun(*slot)) expected_holder_came(*slot);
  });
}

void expect_each(const Passing &passing) noexcept {
  for (unsigned i = 0; i < passing.count; ++i) expect(&passing.messages[i].msg_hdr);
}
void take_back_from(const Passing &passing, unsigned first) noexcept {
  for (unsigned i = first; i < passing.count; ++i) take_back(&passing.messages[i].msg_hdr);
}

long send_one(Passing *passing) {
  return next.sendmsg(passing->fd, passing->message, passing->flags);
}
void give_up_one(Passing *passing) { take_back(passing->message); }

long send_each(Passing *passing) {
  return next.sendmmsg(passing->fd, passing->messages, passing->count, passing->flags);
}
void give_up_each(Passing *passing) { take_back_from(*passing, 0); }

}  // namespace

ssize_t send_passing(int fd, const msghdr *message, int flags) {
  Passing passing{fd, message, nullptr, 0, flags};
  expect(message);
  auto sent = static_cast<ssize_t>(cancellable(send_one, give_up_one, &passing));
  if (sent < 0) take_back(message);
  return sent;
}

int send_all_passing(int fd, mmsghdr *messages, unsigned count, int flags) {
  Passing passing{fd, nullptr, messages, count, flags};
  expect_each(passing);
  auto sent = static_cast<int>(cancellable(send_each, give_up_each, &passing));
  take_back_from(passing, sent < 0 ? 0 : static_cast<unsigned>(sent));
  return sent;
}

void arrived(int fd, int over) noexcept {
  if (in_foreign_process() || beyond_table(fd)) return;
  std::uint64_t cookie = cookie_of(fd);
  if (cookie == 0) return;
  const int saved = errno;
  Slot *slot = join_known(cookie, fd);
  // What is still fresh may begin anew where it is not found at once.
  if (slot == nullptr && is_connection(fd)) {
    slot = join_from(sender_of(over), fd);
    if (slot == nullptr && !is_fresh(fd)) slot = join_from_anywhere(fd);
  }
  if (slot != nullptr) {
    expected_holder_came(*slot);
    if (local(*slot).acceptor == 0) hand_on(*slot, fd);
    bool owes = slot->state.load(std::memory_order_acquire) == State::established &&
                slot->output_pending.load(std::memory_order_acquire);
    if (owes) notify_helper(*slot);
  }
  errno = saved;
}

}  // namespace inlay::shim
