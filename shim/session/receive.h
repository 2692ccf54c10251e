// What other files of session/ need of the receiving side.
#pragma once

#include "shim/arena/slot.h"

namespace inlay::shim {

// FIONREAD: application bytes a receive would find now, exact for the first record; -1 when the
// session is not established.
int readable_bytes(Slot &slot, int fd) noexcept;

// Everything the kernel's queue holds, ciphertext; not positive when that is nothing.
long queued_bytes(int fd) noexcept;

// Swallows control records (close_notify among them) at the front of the kernel's queue: left
// there, they would make the kernel answer close() with a reset instead of a FIN.
// True when data that nobody will read is left behind them, or when an alert among them says that
// the peer refused this end: the session has failed then, with that reason.
bool swallow_control_records(Slot &slot, int fd) noexcept;

}  // namespace inlay::shim
