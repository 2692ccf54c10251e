// Which processes hold a connection: the last one to let go says goodbye to the peer. The entries
// are in the slot, shared by all of them; whoever changes them holds the slot's life_lock.
#pragma once

#include "shim/arena/slot.h"

namespace inlay::shim {

// In place of a process: the thread is inside posix_spawn(), and does not know its child's number yet.
inline constexpr Participant kSpawning = kMark;

Holder *find_holder(Slot &slot, Participant who) noexcept;
// Counts one more descriptor of `who`. Without a free place the connection simply never has a last
// holder: no close_notify is sent, which the peer sees as an error, not as a clean end.
void add_descriptor(Slot &slot, Participant who) noexcept;
// A holder is on its way: a child that is being forked, a descriptor that is passed to a process. And it
// is there, or never will be.
void expect_holder(Slot &slot) noexcept;
void expected_holder_came(Slot &slot) noexcept;
// Some process other than this one holds the connection, or one is on its way.
bool held_elsewhere(Slot &slot) noexcept;
void release_holder(Slot &slot, Participant who) noexcept;

}  // namespace inlay::shim
