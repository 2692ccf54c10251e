#include "shim/session/in_flight.h"

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/process.h"
#include "shim/hooks/next.h"
#include "shim/session/cancel.h"
#include "shim/session/hand_over.h"
#include "shim/session/holders.h"
#include "shim/session/lifetime.h"

namespace inlay::shim {
namespace {

// One that nobody has touched needs no holder: whoever receives it begins anew.
Slot *begun(int fd) noexcept {
  std::uint64_t word = descriptor_word(fd);
  if ((word & kManagedBit) == 0 || in_foreign_process()) return nullptr;
  auto *slot = reinterpret_cast<Slot *>(word & ~kManagedBit);
  State state = slot->state.load(std::memory_order_acquire);
  bool is =
      state == State::connecting || state == State::handshaking || state == State::established;
  return is ? slot : nullptr;
}

struct Passing {
  int fd;
  const msghdr *message;
  mmsghdr *messages;
  unsigned count;
  int flags;
};

void expect(const msghdr &message) noexcept {
  for_each_passed(&message, [](int fd) {
    if (Slot *slot = begun(fd)) expect_holder(*slot);
  });
}

void take_back(const msghdr &message) noexcept {
  for_each_passed(&message, [](int fd) {
    if (Slot *slot = begun(fd)) expected_holder_came(*slot);
  });
}

void expect_each(const Passing &passing) noexcept {
  for (unsigned i = 0; i < passing.count; ++i) expect(passing.messages[i].msg_hdr);
}
void take_back_from(const Passing &passing, unsigned first) noexcept {
  for (unsigned i = first; i < passing.count; ++i) take_back(passing.messages[i].msg_hdr);
}

long send_one(Passing *passing) {
  return next.sendmsg(passing->fd, passing->message, passing->flags);
}
void give_up_one(Passing *passing) { take_back(*passing->message); }

long send_each(Passing *passing) {
  return next.sendmmsg(passing->fd, passing->messages, passing->count, passing->flags);
}
void give_up_each(Passing *passing) { take_back_from(*passing, 0); }

}  // namespace

ssize_t send_passing(int fd, const msghdr *message, int flags) {
  Passing passing{fd, message, nullptr, 0, flags};
  expect(*message);
  auto sent = static_cast<ssize_t>(cancellable(send_one, give_up_one, &passing));
  if (sent < 0) take_back(*message);
  return sent;
}

int send_all_passing(int fd, mmsghdr *messages, unsigned count, int flags) {
  Passing passing{fd, nullptr, messages, count, flags};
  expect_each(passing);
  auto sent = static_cast<int>(cancellable(send_each, give_up_each, &passing));
  take_back_from(passing, sent < 0 ? 0 : static_cast<unsigned>(sent));
  return sent;
}

void arrived(int fd) noexcept {
  if (arena_count() == 0 || in_foreign_process()) return;
  Slot *slot = session_of(fd);
  if (slot == nullptr) return;
  join_session(*slot, fd);
  expected_holder_came(*slot);
}

}  // namespace inlay::shim
