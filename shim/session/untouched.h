// An accepted connection nobody has touched: who begins its handshake.
//
// On a blocking socket the handshake's bytes are hidden from select() (hide.cc), so the acceptor's
// helper must begin by itself; yet inetd-like servers accept a connection for another program, and
// what that program finds must be whole. There is no telling from the socket: the helper looks at
// what the thread that accepted it does, and at who else holds it.
#pragma once

#include <cstdint>

#include "shim/arena/slot.h"

namespace inlay::shim {

enum class Untouched : std::uint8_t {
  wait,     // the program may still be giving it to another
  begin,    // it waits for the connection to become readable: this process does the handshake
  hand_on,  // another program speaks on it, or may
};
// `waited_ns`: since it was accepted. The helper thread only.
Untouched judge_untouched(Slot &slot, int fd, std::int64_t waited_ns) noexcept;

}  // namespace inlay::shim
